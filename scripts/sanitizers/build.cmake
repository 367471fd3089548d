# What scripts/sanitizers.sh builds, in Debug: the kernels under one sanitizer, calls of their threads alone, and an
# extension with a fault that it must find.
if(NOT CAMRT_SANITIZE MATCHES "^(thread|address|undefined)$")
  message(FATAL_ERROR "camrt: CAMRT_SANITIZE is '${CAMRT_SANITIZE}'; it must be thread, address or undefined")
endif()

set(camrt_sanitizer -fsanitize=${CAMRT_SANITIZE})
if(CAMRT_SANITIZE STREQUAL "undefined")
  # A number that the integer it is turned into cannot hold is undefined too, and not in that group.
  list(APPEND camrt_sanitizer -fsanitize=float-cast-overflow -fno-sanitize-recover=all)
endif()

# Indices of the standard library's containers are checked, and the smallest work is shared out among threads.
target_compile_definitions(_native PRIVATE _GLIBCXX_ASSERTIONS CAMRT_WORK_OF_ONE_THREAD=1)
target_compile_options(_native PRIVATE -O1)

pybind11_add_module(_planted EXCLUDE_FROM_ALL scripts/sanitizers/planted.cpp)
target_compile_options(_planted PRIVATE -O0)
target_link_libraries(_planted PRIVATE camrt_options)

add_executable(_pool_calls EXCLUDE_FROM_ALL scripts/sanitizers/pool_calls.cpp kernels/pool.cpp)
target_compile_options(_pool_calls PRIVATE -O1)
target_include_directories(_pool_calls PRIVATE kernels)
target_link_libraries(_pool_calls PRIVATE camrt_options)

foreach(module _native _planted _pool_calls)
  target_compile_options(${module} PRIVATE -g -fno-omit-frame-pointer ${camrt_sanitizer})
  target_link_options(${module} PRIVATE ${camrt_sanitizer})
endforeach()
