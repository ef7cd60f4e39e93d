# Finds a CUDA compiler. Sets FUSEDCAM_WITHOUT_CUDA to the reason why there will be no _cuda, or to nothing, and writes it
# to _build.py for `fusedcam info`.
set(FUSEDCAM_CUDA "AUTO" CACHE STRING "Build CUDA kernels: AUTO (if a compiler is found), ON (fail without one), OFF")
set_property(CACHE FUSEDCAM_CUDA PROPERTY STRINGS AUTO ON OFF)

set(FUSEDCAM_WITHOUT_CUDA "")
set(cuda_architectures "")
if(NOT FUSEDCAM_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "FUSEDCAM_CUDA is ${FUSEDCAM_CUDA}; accepted are AUTO, ON and OFF")
elseif(FUSEDCAM_CUDA STREQUAL "OFF")
  set(FUSEDCAM_WITHOUT_CUDA "it was built with FUSEDCAM_CUDA=OFF")
else()
  # The toolkit's installer does not put it on PATH. CUDACXX rather than CMAKE_CUDA_COMPILER, which would make the check
  # below believe without trying.
  if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
    find_program(FUSEDCAM_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda PATH_SUFFIXES bin)
    if(FUSEDCAM_NVCC)
      set(ENV{CUDACXX} "${FUSEDCAM_NVCC}")
    endif()
  endif()
  # Before the language is enabled: afterwards CMake has put the compiler's own default here. One for each major version,
  # since code runs on later minor versions, and the newest as PTX for what is to come. CUDA 13 was the first to know 11.
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES AND NOT DEFINED ENV{CUDAARCHS})
    set(CMAKE_CUDA_ARCHITECTURES "75-real;80-real;90-real;100-real;120")
    execute_process(COMMAND "$ENV{CUDACXX}" --list-gpu-arch OUTPUT_VARIABLE known ERROR_QUIET)
    if(known MATCHES "compute_110")
      list(INSERT CMAKE_CUDA_ARCHITECTURES 4 "110-real")
    endif()
  endif()
  include(CheckLanguage)
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    set(FUSEDCAM_WITHOUT_CUDA "no working nvcc was found when it was built")
  else()
    enable_language(CUDA)
    if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.8)
      set(FUSEDCAM_WITHOUT_CUDA "nvcc ${CMAKE_CUDA_COMPILER_VERSION} is older than 12.8")
    else()
      set(cuda_architectures "${CMAKE_CUDA_ARCHITECTURES}")
    endif()
  endif()
  if(NOT FUSEDCAM_WITHOUT_CUDA STREQUAL "")
    if(FUSEDCAM_CUDA STREQUAL "ON")
      message(FATAL_ERROR "FUSEDCAM_CUDA is ON, but ${FUSEDCAM_WITHOUT_CUDA}")
    endif()
    message(WARNING "fusedcam is built without CUDA kernels: ${FUSEDCAM_WITHOUT_CUDA}")
  endif()
endif()

file(CONFIGURE OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/_build.py @ONLY CONTENT [=[
"""How this installation was built; written by CMake."""

WITHOUT_CUDA = "@FUSEDCAM_WITHOUT_CUDA@"
CUDA_ARCHITECTURES = "@cuda_architectures@"
]=])
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/_build.py DESTINATION fusedcam)
