/* All int8 kernels of an instruction set; include between MXN_TARGET_BEGIN and MXN_TARGET_END, after its simd/ wrapper and
 * its simd/dot_ wrapper.
 *
 *     weight: block of 16 outputs-quad-vector-lane-4        a quad is four consecutive inputs, the factors of one vi_dot()
 *
 * where weights are bytes; where they take two, the last two places are parity-lane-2: first inputs 0 and 2 of every lane of
 * the vector, then 1 and 3.
 */
enum { INT8_QUAD = 4 * MXN_DENSE_BLOCK * VI_WEIGHT_BYTES }; /* bytes from one quad of a block to the next */

/* Where the weights of output `output`, a multiple of VF_LANES, begin in a layer of `quads` quads. */
MXN_INLINE ptrdiff_t int8_place(const int quads, const int output) {
    const ptrdiff_t block = output / MXN_DENSE_BLOCK, lane = output % MXN_DENSE_BLOCK;
    return block * quads * INT8_QUAD + lane * 4 * VI_WEIGHT_BYTES;
}

static void int8_pack(const int8_t *q, int inputs, int outputs, void *weight) {
    for (int i = 0; i < inputs; i++)
        for (int o = 0; o < outputs; o++) {
            const int block = o / MXN_DENSE_BLOCK, vector = o % MXN_DENSE_BLOCK / VF_LANES, lane = o % VF_LANES;
            const size_t quad = (size_t)block * (size_t)(inputs / 4) + (size_t)(i / 4);
            const size_t start = quad * 4 * MXN_DENSE_BLOCK + (size_t)(4 * VF_LANES * vector);
            const int8_t value = q[(size_t)i * (size_t)outputs + (size_t)o];
            if (VI_WEIGHT_BYTES == 1)
                ((int8_t *)weight)[start + (size_t)(4 * lane + i % 4)] = value;
            else
                ((int16_t *)weight)[start + (size_t)(i % 2 * 2 * VF_LANES + 2 * lane + i % 4 / 2)] = value;
        }
}

#include "int8_load.inc.h"
#include "int8_conv.inc.h"
#include "int8_dense.inc.h"
#include "dense_fixed_point.inc.h"

#define MXN_INT8_TABLE(isa, required, faster)                                                       \
    const mxn_int8_kernels mxn_int8_##isa = {                                                       \
        .features = (required), .faster_than_float32 = (faster), .weight_bytes = VI_WEIGHT_BYTES,   \
        .byte_offset = VI_BYTE_OFFSET, .pack = int8_pack,                                           \
        .load_u8 = int8_load_u8, .load_f32 = int8_load_f32,                                         \
        .conv1 = {int8_conv1_plain, int8_conv1_pooled},                                             \
        .conv2 = {int8_conv2_plain, int8_conv2_pooled}, .fc1 = int8_fc1, .fc2 = int8_fc2,           \
        .fc1_fixed_point = FIXED_POINT_PREFERRED ? fc1_fixed_point : NULL,                          \
    }
