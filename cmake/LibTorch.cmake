# SPDX-License-Identifier: LGPL-2.1-or-later
#
# LibTorch as imported targets: flashvsr::torch_cpu (ATen and c10 for the CPU) and, with FLASHVSR_CUDA,
# flashvsr::torch_cuda. It is looked for in FLASHVSR_LIBTORCH (scripts/fetch-libtorch.sh puts it there and
# says where), then in CMAKE_PREFIX_PATH. The package file that LibTorch ships is not used: it asks for CUDA
# even where only the CPU is wanted.

set(FLASHVSR_LIBTORCH "" CACHE PATH "Folder with LibTorch's include/ and lib/")

find_path(FLASHVSR_TORCH_INCLUDE_DIR ATen/ATen.h
          HINTS ${FLASHVSR_LIBTORCH} PATH_SUFFIXES include torch/include)
find_library(FLASHVSR_TORCH_CPU_LIBRARY torch_cpu
             HINTS ${FLASHVSR_LIBTORCH} PATH_SUFFIXES lib torch/lib)
find_library(FLASHVSR_C10_LIBRARY c10 HINTS ${FLASHVSR_LIBTORCH} PATH_SUFFIXES lib torch/lib)
if(NOT FLASHVSR_TORCH_INCLUDE_DIR OR NOT FLASHVSR_TORCH_CPU_LIBRARY OR NOT FLASHVSR_C10_LIBRARY)
    message(FATAL_ERROR "LibTorch was not found. Set FLASHVSR_LIBTORCH or CMAKE_PREFIX_PATH to a LibTorch "
                        "2.11 folder, or build with scripts/build.sh, which fetches it.")
endif()
mark_as_advanced(FLASHVSR_TORCH_INCLUDE_DIR FLASHVSR_TORCH_CPU_LIBRARY FLASHVSR_C10_LIBRARY)
message(STATUS "LibTorch: ${FLASHVSR_TORCH_CPU_LIBRARY}")

add_library(flashvsr::c10 SHARED IMPORTED)
set_target_properties(flashvsr::c10 PROPERTIES
    IMPORTED_LOCATION ${FLASHVSR_C10_LIBRARY}
    INTERFACE_INCLUDE_DIRECTORIES ${FLASHVSR_TORCH_INCLUDE_DIR})
add_library(flashvsr::torch_cpu SHARED IMPORTED)
set_target_properties(flashvsr::torch_cpu PROPERTIES
    IMPORTED_LOCATION ${FLASHVSR_TORCH_CPU_LIBRARY}
    INTERFACE_LINK_LIBRARIES flashvsr::c10
    # The library's own dependencies (its OpenMP and CUDA run times) are found through its run path; the
    # linker need not find them.
    INTERFACE_LINK_OPTIONS "LINKER:--allow-shlib-undefined")

# ATen's parallel loops are inline and threaded only where OpenMP is on. There must be one OpenMP run time in the
# process: the one that LibTorch brings, or the system's if it brings none. ThreadSanitizer sees none of its
# locks, so that preset goes without.
if(NOT FLASHVSR_SANITIZE MATCHES "thread")
    get_filename_component(FLASHVSR_TORCH_LIBRARY_DIR ${FLASHVSR_TORCH_CPU_LIBRARY} DIRECTORY)
    file(GLOB FLASHVSR_OPENMP_LIBRARY ${FLASHVSR_TORCH_LIBRARY_DIR}/libgomp*.so*)
    if(FLASHVSR_OPENMP_LIBRARY)
        list(GET FLASHVSR_OPENMP_LIBRARY 0 FLASHVSR_OPENMP_LIBRARY)
        target_link_libraries(flashvsr::torch_cpu INTERFACE ${FLASHVSR_OPENMP_LIBRARY})
    else()
        find_package(OpenMP REQUIRED COMPONENTS CXX)
        target_link_libraries(flashvsr::torch_cpu INTERFACE ${OpenMP_CXX_LIBRARIES})
    endif()
    add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-fopenmp>)
endif()

if(FLASHVSR_CUDA)
    find_library(FLASHVSR_TORCH_CUDA_LIBRARY torch_cuda HINTS ${FLASHVSR_LIBTORCH} PATH_SUFFIXES lib torch/lib)
    find_library(FLASHVSR_C10_CUDA_LIBRARY c10_cuda HINTS ${FLASHVSR_LIBTORCH} PATH_SUFFIXES lib torch/lib)
    if(NOT FLASHVSR_TORCH_CUDA_LIBRARY OR NOT FLASHVSR_C10_CUDA_LIBRARY)
        message(FATAL_ERROR "The LibTorch in ${FLASHVSR_TORCH_INCLUDE_DIR} was built without CUDA.")
    endif()
    mark_as_advanced(FLASHVSR_TORCH_CUDA_LIBRARY FLASHVSR_C10_CUDA_LIBRARY)
    find_package(CUDAToolkit 12.9 REQUIRED)
    add_library(flashvsr::torch_cuda SHARED IMPORTED)
    set_target_properties(flashvsr::torch_cuda PROPERTIES
        IMPORTED_LOCATION ${FLASHVSR_TORCH_CUDA_LIBRARY}
        # LibTorch registers its CUDA operations when it is loaded; no symbol of ours asks for that.
        INTERFACE_LINK_LIBRARIES "flashvsr::torch_cpu;${FLASHVSR_C10_CUDA_LIBRARY};CUDA::cudart;CUDA::cublasLt"
        INTERFACE_LINK_OPTIONS "LINKER:--no-as-needed,${FLASHVSR_TORCH_CUDA_LIBRARY},--as-needed")
endif()
