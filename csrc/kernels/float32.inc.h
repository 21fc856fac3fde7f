/* All float32 kernels of an instruction set, and those of crops; include between MXN_TARGET_BEGIN and
 * MXN_TARGET_END, after its simd/ wrapper. */
#include "load.inc.h"
#include "conv_tile.inc.h"
#include "conv_direct.inc.h"
#include "conv1_toom_cook.inc.h"
#include "conv2_toom_cook.inc.h"
#include "dense.inc.h"
#include "resample.inc.h"
#include "average_rows.inc.h"
#include "average_columns.inc.h"

#define MXN_FLOAT32_TABLE(isa, required)                                                            \
    const mxn_float32_kernels mxn_float32_##isa = {                                                 \
        .features = (required), .load_u8 = load_u8, .load_f32 = load_f32,                           \
        .conv1 = {conv1_plain, conv1_pooled}, .conv2 = {conv2_plain, conv2_pooled},                 \
        .conv1_toom_cook = conv1_toom_cook, .conv2_toom_cook = conv2_toom_cook,                     \
        .conv1_toom_cook_u8 = CONV1_READS_U8 ? conv1_toom_cook_u8 : NULL,                           \
        .conv1_prefers_toom_cook = CONV1_PREFERS_TOOM_COOK,                                         \
        .conv2_prefers_toom_cook = CONV2_PREFERS_TOOM_COOK, .dense = dense,                         \
        .fc1_s8 = DENSE_PREFERS_S8 ? fc1_s8 : NULL,                                                 \
        .gray_row = gray_row, .accumulate_rows = accumulate_rows, .resample_block = resample_block, \
        .average_rows = average_rows, .scale_lanes = VH_LANES, .average_columns = average_columns,  \
    }
