# SPDX-License-Identifier: LGPL-2.1-or-later
#
# CUTLASS, templates of matrix products for NVIDIA's GPUs, as the imported target flashvsr::cutlass. It is looked for in
# FLASHVSR_CUTLASS (scripts/fetch-cutlass.sh puts it there and says where), then in CMAKE_PREFIX_PATH.

set(FLASHVSR_CUTLASS "" CACHE PATH "Folder with CUTLASS's include/")

find_path(FLASHVSR_CUTLASS_INCLUDE_DIR cutlass/epilogue/fusion/sm90_callbacks_tma_warpspecialized.hpp
          HINTS ${FLASHVSR_CUTLASS} PATH_SUFFIXES include)
if(NOT FLASHVSR_CUTLASS_INCLUDE_DIR)
    message(FATAL_ERROR "CUTLASS was not found, which FLASHVSR_CUDA needs. Set FLASHVSR_CUTLASS to the folder that "
                        "holds the include/ of CUTLASS 4.2, or build with scripts/build.sh, which fetches it.")
endif()
mark_as_advanced(FLASHVSR_CUTLASS_INCLUDE_DIR)
message(STATUS "CUTLASS: ${FLASHVSR_CUTLASS_INCLUDE_DIR}")

add_library(flashvsr::cutlass INTERFACE IMPORTED)
set_target_properties(flashvsr::cutlass PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES ${FLASHVSR_CUTLASS_INCLUDE_DIR}
    INTERFACE_COMPILE_OPTIONS $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr>)
