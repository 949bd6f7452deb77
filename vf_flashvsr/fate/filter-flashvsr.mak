# The pictures depend on the processor and on the model, FLASHVSR_MODEL_DIR or libflashvsr's own, and are blanked:
# what is left are the frames' times and sizes. Alpha does not go through the model.
FATE_FILTER_FLASHVSR-$(call FILTERFRAMECRC, FLASHVSR TESTSRC2 DRAWBOX SETPTS) += $(addprefix fate-filter-flashvsr-, short chunks times size)
fate-filter-flashvsr-short:  CMD = framecrc -lavfi "testsrc2=s=16x16:r=25,flashvsr=device=cpu:scale=2,drawbox=t=fill:c=black" -frames:v 3 -pix_fmt yuv420p
fate-filter-flashvsr-chunks: CMD = framecrc -lavfi "testsrc2=s=16x16:r=25:d=1.4,flashvsr=device=cpu:scale=2,drawbox=t=fill:c=black" -pix_fmt yuv420p
fate-filter-flashvsr-times:  CMD = framecrc -lavfi "testsrc2=s=16x16:r=25:d=1.2,setpts=N*N-7,flashvsr=device=cpu:scale=2,drawbox=t=fill:c=black" -pix_fmt yuv420p -fps_mode passthrough -copyts
fate-filter-flashvsr-size:   CMD = framecrc -lavfi "testsrc2=s=26x14:r=25:d=0.2,flashvsr=device=cpu:w=-2:h=2*ih+9,drawbox=t=fill:c=black" -pix_fmt yuv420p

FATE_FILTER_FLASHVSR-$(call FILTERFRAMECRC, FLASHVSR TESTSRC2 FORMAT LUTYUV) += fate-filter-flashvsr-alpha
fate-filter-flashvsr-alpha: CMD = framecrc -lavfi "testsrc2=s=64x48:r=25:d=0.2:alpha=100,format=yuva420p,flashvsr=device=cpu:scale=2.5,lutyuv=y=16:u=128:v=128" -pix_fmt yuva420p

fate-filter-flashvsr: $(FATE_FILTER_FLASHVSR-yes)
FATE_FILTER-yes += $(FATE_FILTER_FLASHVSR-yes)

