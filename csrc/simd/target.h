/* Opens and closes the region of a file in which the compiler may use an instruction set's extensions. No system header
 * may be included inside: its inline functions would be compiled for that CPU and leak into the rest of the program. What the
 * wrappers need of the standard library is included here.
 */
#ifndef MXN_SIMD_TARGET_H
#define MXN_SIMD_TARGET_H

#include <float.h>
#include <math.h>
#include <string.h>

#define MXN_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define MXN_TARGET_BEGIN(features) \
    MXN_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define MXN_TARGET_END MXN_PRAGMA(clang attribute pop)
#else
#define MXN_TARGET_BEGIN(features) MXN_PRAGMA(GCC push_options) MXN_PRAGMA(GCC target(features))
#define MXN_TARGET_END MXN_PRAGMA(GCC pop_options)
#endif

#define MXN_INLINE static inline __attribute__((always_inline))

#endif
