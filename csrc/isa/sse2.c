/* SSE2: every x86-64 CPU. */
#include "../backend.h"

#if defined(__x86_64__)
#include "../simd/target.h"
#include <immintrin.h>

MXN_TARGET_BEGIN("sse2")
#include "../simd/sse2.h"

#include "../kernels/float32.inc.h"

#include "../simd/dot_sse2.h"

#include "../kernels/int8.inc.h"
#include "../kernels/detector.inc.h"
MXN_TARGET_END

MXN_FLOAT32_TABLE(sse2, 0);
MXN_DETECTOR_TABLE(sse2, 0);
MXN_INT8_TABLE(sse2, 0, false);
#else
typedef int mxn_sse2_is_for_another_architecture;
#endif
