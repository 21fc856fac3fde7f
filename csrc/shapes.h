/* Every dimension, padding and buffer layout of MicroExpNet (arXiv 1711.07011v4, section 4). Includes nothing.
 *
 * TensorFlow SAME padding. conv1 has stride 2 when its max-pool follows (topologies p1, p12) and stride 4 when it does
 * not (v, p2); both give a 21×21 map, so that everything behind it is alike.
 */
#ifndef MXN_SHAPES_H
#define MXN_SHAPES_H

enum {
    MXN_FACE_SIZE = 84,
    MXN_FACE_PIXELS = MXN_FACE_SIZE * MXN_FACE_SIZE,

    /* Padded input image: y-x. Stride 2 needs 3 zeros on every side, stride 4 needs 2 and starts one row and column in. */
    MXN_IMAGE_PADDING = 3,
    MXN_IMAGE_ROWS = MXN_FACE_SIZE + 2 * MXN_IMAGE_PADDING,
    MXN_IMAGE_PITCH = 96, /* floats from row to row; a whole number of 64-byte lines */

    MXN_CONV1_KERNEL = 8,
    MXN_CONV1_TAPS = MXN_CONV1_KERNEL * MXN_CONV1_KERNEL, /* ky-kx */
    MXN_CONV1_CHANNELS = 16,
    MXN_CONV1_WEIGHTS = MXN_CONV1_TAPS * MXN_CONV1_CHANNELS,
    MXN_CONV1_POOLED_STRIDE = 2,
    MXN_CONV1_PLAIN_STRIDE = 4,
    MXN_CONV1_POOLED_OUTPUT = 42, /* before its pool */

    /* Padded map between the convolutions: y-x-c, one zero pixel before and two after. */
    MXN_MAP_SIZE = 21,
    MXN_MAP_PADDING = 1,
    MXN_MAP_PIXELS = MXN_MAP_SIZE + 3, /* per row and column */
    MXN_MAP_PITCH = MXN_MAP_PIXELS * MXN_CONV1_CHANNELS,

    MXN_CONV2_KERNEL = 4,
    MXN_CONV2_STRIDE = 2,
    MXN_CONV2_TAPS = MXN_CONV2_KERNEL * MXN_CONV2_KERNEL * MXN_CONV1_CHANNELS, /* ky-kx-ic */
    MXN_CONV2_CHANNELS = 32,
    MXN_CONV2_WEIGHTS = MXN_CONV2_TAPS * MXN_CONV2_CHANNELS,
    MXN_CONV2_OUTPUT = 11,
    MXN_POOL2_OUTPUT = 6, /* the last row and column of windows are half outside, which max ignores */

    MXN_FLAT_PLAIN = MXN_CONV2_OUTPUT * MXN_CONV2_OUTPUT * MXN_CONV2_CHANNELS,
    MXN_FLAT_POOLED = MXN_POOL2_OUTPUT * MXN_POOL2_OUTPUT * MXN_CONV2_CHANNELS,
    MXN_FLAT_MAX = MXN_FLAT_PLAIN,

    /* Fully connected layers are computed in blocks of 16 outputs, the widest vector of floats there is. */
    MXN_DENSE_BLOCK = 16,
    MXN_DENSE_FACES = 3, /* that share each load of their weights, in a batch */
    MXN_HIDDEN_MAX = 1024,
    MXN_CLASSES_MAX = 64,

    /* Toom-Cook convolutions (toom_cook.h). A stride of 2 splits source and kernel by the parity of row and column into
     * four phases, each a convolution with stride 1 and half the kernel; the sum over the phases is the result.
     *
     * conv1: tiles of 6 rows and 3 columns, by F(6,4) vertically and F(3,4) horizontally; a block is 7 tiles side by side. */
    MXN_CONV1_PHASES = 4, /* column parity-row parity */
    MXN_CONV1_TILE_ROWS = 6,
    MXN_CONV1_TILE_COLUMNS = 3,
    MXN_CONV1_ROW_POINTS = MXN_CONV1_TILE_ROWS + MXN_CONV1_KERNEL / 2 - 1,
    MXN_CONV1_COLUMN_POINTS = MXN_CONV1_TILE_COLUMNS + MXN_CONV1_KERNEL / 2 - 1,
    MXN_CONV1_TILES = 7, /* of a block */

    /* conv2: tiles of 4, 4 and 3 rows and columns by F(4,2) and F(3,2). The fifth point exists for tiles of 4 only. */
    MXN_CONV2_TILE = 4,
    MXN_CONV2_TILES = 3, /* in each direction */
    MXN_CONV2_POINTS = MXN_CONV2_TILE + MXN_CONV2_KERNEL / 2 - 1,
    MXN_CONV2_DEPTH = 4 * MXN_CONV1_CHANNELS, /* row parity-column parity-ic */
    MXN_CONV2_BLOCK = 16,                     /* output channels whose weights lie together */

    MXN_CONV1_TOOM_COOK_WEIGHTS = MXN_CONV1_ROW_POINTS * MXN_CONV1_COLUMN_POINTS * MXN_CONV1_PHASES * MXN_CONV1_CHANNELS,
    MXN_CONV2_TOOM_COOK_WEIGHTS = MXN_CONV2_POINTS * MXN_CONV2_POINTS * MXN_CONV2_DEPTH * MXN_CONV2_CHANNELS,

    /* The face detector; its maps have a border of one pixel. */
    MXN_DETECTOR_STEM = 16,
    MXN_DETECTOR_LEVELS = 3, /* maps of stride 4, 8 and 16 that answer */
    MXN_DETECTOR_UNITS = 12, /* three for each level, and one for each head */
    MXN_DETECTOR_CHANNELS_MAX = 64,
    MXN_DETECTOR_ANSWERS = 5, /* logit, dx, dy, log width, log height */

    /* Its second look at a candidate. */
    MXN_REFINER_SIZE = 48,
    MXN_REFINER_PIXELS = MXN_REFINER_SIZE * MXN_REFINER_SIZE,
    MXN_REFINER_UNITS = 4,
    MXN_REFINER_MAP = 6, /* side of the last map, after three strides of 2 */
    MXN_REFINER_FLAT = MXN_REFINER_MAP * MXN_REFINER_MAP * MXN_DETECTOR_CHANNELS_MAX,

    /* Floats that a kernel may use as it likes; what they hold on entry means nothing. */
    MXN_SCRATCH = 15392,
};

/* Of an int8 model: weights are -127..127, so that a weight and its negative are both there. */
#define MXN_INT8_MAX 127
#define MXN_BYTE_MAX 255

#define MXN_ALIGNMENT 64  /* bytes; of every buffer that a kernel loads with aligned loads */
#define MXN_CACHE_LINE 64 /* bytes that a prefetch brings */

#ifndef __cplusplus
_Static_assert((MXN_CONV1_POOLED_OUTPUT - 1) * MXN_CONV1_POOLED_STRIDE + MXN_CONV1_KERNEL == MXN_IMAGE_ROWS,
               "conv1 with stride 2 covers the padded image exactly");
_Static_assert((MXN_MAP_SIZE - 1) * MXN_CONV1_PLAIN_STRIDE + MXN_CONV1_KERNEL == MXN_IMAGE_ROWS - 2,
               "conv1 with stride 4 covers the image padded by two");
_Static_assert(MXN_MAP_SIZE * 2 == MXN_CONV1_POOLED_OUTPUT, "pool 1 halves exactly");
_Static_assert((MXN_CONV2_OUTPUT - 1) * MXN_CONV2_STRIDE + MXN_CONV2_KERNEL == MXN_MAP_PIXELS,
               "conv2 covers the padded map exactly");
_Static_assert((MXN_CONV2_OUTPUT + 1) / 2 == MXN_POOL2_OUTPUT, "pool 2 rounds up");
_Static_assert(MXN_CONV1_POOLED_OUTPUT % MXN_CONV1_TILE_ROWS == 0 && MXN_CONV1_TILE_ROWS % 2 == 0 &&
                   2 * MXN_CONV1_TILES * MXN_CONV1_TILE_COLUMNS == MXN_CONV1_POOLED_OUTPUT,
               "two blocks are a strip of the output, and strips cut no window");
_Static_assert(MXN_CONV2_TILES * MXN_CONV2_TILE - 1 == MXN_CONV2_OUTPUT && MXN_CONV2_TILE % 2 == 0,
               "tiles of 4, 4 and 3 cover the output and cut no window");
_Static_assert(MXN_CONV1_TAPS % 8 == 0 && MXN_CONV1_KERNEL % 4 == 0 && MXN_CONV1_CHANNELS % 4 == 0 &&
                   MXN_FLAT_POOLED % 32 == 0 && MXN_FLAT_PLAIN % 32 == 0,
               "int8 layers have whole turns of quads of inputs");
_Static_assert(MXN_FLAT_MAX < 0x7FFFFFFF / (2 * MXN_BYTE_MAX * MXN_INT8_MAX) && MXN_CONV2_TAPS <= MXN_FLAT_MAX,
               "int8 sums, their starts and all parts of them fit 32 bits");
_Static_assert(MXN_IMAGE_PITCH >= MXN_IMAGE_ROWS && MXN_IMAGE_PITCH * 4 % MXN_ALIGNMENT == 0, "image rows are aligned");
_Static_assert(MXN_HIDDEN_MAX % MXN_DENSE_BLOCK == 0 && MXN_CLASSES_MAX % MXN_DENSE_BLOCK == 0, "whole blocks");
#endif

#endif
