// How hot functions are compiled for several instruction sets.
//
// A body is a CAMRT_INLINE template; a non-template CAMRT_CLONES function calls it for each type. The body is
// then inlined into every clone and vectorised for it, and the loader picks the clone that the machine can run.
// Other compilers and systems compile it once, for the target that they are given.
#pragma once

#include <cstdlib>  // for __GLIBC__

#if defined(__GNUC__) || defined(__clang__)
#define CAMRT_INLINE __attribute__((always_inline)) inline
#define CAMRT_RESTRICT __restrict__
#elif defined(_MSC_VER)
#define CAMRT_INLINE inline
#define CAMRT_RESTRICT __restrict
#else
#define CAMRT_INLINE inline
#define CAMRT_RESTRICT
#endif

#if !defined(CAMRT_ONE_TARGET) && defined(__x86_64__) && defined(__GLIBC__) && \
    !defined(__clang__) && defined(__GNUC__) && __GNUC__ >= 12
#define CAMRT_CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define CAMRT_CLONES
#endif
