/* AVX2 with FMA. */
#include "../backend.h"

#if defined(__x86_64__)
#include "../simd/target.h"
#include <immintrin.h>

MXN_TARGET_BEGIN("avx2,fma")
#include "../simd/avx2.h"

#include "../kernels/all.inc.h"
MXN_TARGET_END

MXN_BACKEND_TABLE(avx2, MXN_CPU_AVX2 | MXN_CPU_FMA);
#else
typedef int mxn_backend_avx2_is_for_another_architecture;
#endif
