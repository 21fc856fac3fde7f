/* SSE2: every x86-64 CPU. */
#include "../backend.h"

#if defined(__x86_64__)
#include "../simd/target.h"
#include <immintrin.h>

MXN_TARGET_BEGIN("sse2")
#include "../simd/sse2.h"

#include "../kernels/all.inc.h"
MXN_TARGET_END

MXN_BACKEND_TABLE(sse2, 0);
#else
typedef int mxn_backend_sse2_is_for_another_architecture;
#endif
