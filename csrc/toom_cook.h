/* Toom-Cook convolution: the points and matrices that transform.c and the kernels share. Includes nothing.
 *
 * F(m, r) computes m neighbouring outputs of a correlation with r taps from n = m + r - 1 inputs by n multiplications
 * instead of m·r (Lavin & Gray 2015, arXiv 1509.09308; Toom 1963, Cook 1966):
 *
 *     y = Aᵀ [(G g) ⊙ (Bᵀ d)]        g: r taps, d: n inputs, y: m outputs
 *
 * Each of n points, one of them infinity, gives a row of Bᵀ and G and a column of Aᵀ. For a finite point a, with b running
 * over the other finite points:
 *
 *     Bᵀ: coefficients of Π(x - b), lowest first      G: (1, a, a², ...) / Π(a - b)      Aᵀ: 1, a, a², ...
 *
 * For infinity Bᵀ holds the coefficients of the product over all finite points; G takes the last tap, and Aᵀ gives to the
 * last output only. A row of G may be divided by what its row of Bᵀ or its column
 * of Aᵀ is multiplied with.
 *
 * In two dimensions both transforms are applied along both axes. They are linear, so that the sum over input channels (and
 * over the phases of a strided convolution, see shapes.h) is taken between them, which makes them cheap.
 */
#ifndef MXN_TOOM_COOK_H
#define MXN_TOOM_COOK_H

/* ---- conv1, vertically: F(6,4) over the points ±1, ±1/2, ±2, ±3/4, ∞ --------------------------------------------------
 *
 * Small numbers with small denominators keep the rounding errors small, and every constant below is exact in float32. For
 * a pair ±c the product over the other points is (x ± c) Q(x²) with Q(t) = Π(t - c'²) over the other three pairs: both
 * rows of Bᵀ are sums and differences of one even and one odd part, and so are the outputs.
 */
enum { MXN_CONV1_PAIRS_OF_POINTS = 4 };

#define MXN_PRODUCT3(a, b, c) {-(a) * (b) * (c), (a) * (b) + (a) * (c) + (b) * (c), -(a) - (b) - (c)}
#define MXN_PRODUCT4(a, b, c, d)                                                                              \
    {(a) * (b) * (c) * (d), -(a) * (b) * (c) - (a) * (b) * (d) - (a) * (c) * (d) - (b) * (c) * (d),           \
     (a) * (b) + (a) * (c) + (a) * (d) + (b) * (c) + (b) * (d) + (c) * (d), -(a) - (b) - (c) - (d)}
#define MXN_POWERS5(scale, c)                                                                                   \
    {scale, (scale) * (c), (scale) * (c) * (c), (scale) * (c) * (c) * (c), (scale) * (c) * (c) * (c) * (c), \
     (scale) * (c) * (c) * (c) * (c) * (c)}

static const float mxn_conv1_point[4] = {1.0f, 0.5f, 2.0f, 0.75f};

/* Q of each pair: coefficients of 1, x², x⁴; that of x⁶ is 1. */
static const float mxn_conv1_q[4][3] = {
    MXN_PRODUCT3(0.25f, 4.0f, 0.5625f),
    MXN_PRODUCT3(1.0f, 4.0f, 0.5625f),
    MXN_PRODUCT3(1.0f, 0.25f, 0.5625f),
    MXN_PRODUCT3(1.0f, 0.25f, 4.0f),
};

/* Π(x² - c²) over all pairs, for infinity: coefficients of 1, x², x⁴, x⁶; that of x⁸ is 1. */
static const float mxn_conv1_infinity[4] = MXN_PRODUCT4(1.0f, 0.25f, 4.0f, 0.5625f);

/* Aᵀ of each pair's positive point: c⁰ to c⁵, times what G is divided by, which therefore is the first. So scaled, 1/2 and 2
 * have the same coefficients, and fewer of them must be read where registers are few. */
static const float mxn_conv1_power[4][6] = {MXN_POWERS5(1.0f, 1.0f), MXN_POWERS5(4.0f, 0.5f), MXN_POWERS5(0.25f, 2.0f),
                                            MXN_POWERS5(1.0f, 0.75f)};

/* ---- conv1, horizontally: F(3,4) over the points 0, ±1, ±1/2, ∞ --------------------------------------------------------
 *
 *          1/4    0  -5/4    0   1   0
 *           0   -1/4 -1/4    1   1   0          1  1 -1  4  4  0
 *     Bᵀ =  0    1/4 -1/4   -1   1   0    Aᵀ =  0  1  1  2 -2  0
 *           0   -1/2  -1   1/2   1   0          0  1 -1  1  1  1
 *           0    1/2  -1  -1/2   1   0
 *           0    1/4   0  -5/4   0   1
 *
 * G is divided by -1 at -1 and by 4 at ±1/2: the difference of the products at ±1/2 is then what both sums at ±1 begin with,
 * and need not be kept.
 */
static const double mxn_conv1_column_point[5] = {0.0, 1.0, -1.0, 0.5, -0.5};
static const double mxn_conv1_column_divisor[5] = {1.0, 1.0, -1.0, 4.0, 4.0};

/* ---- conv2: F(4,2) over the points 0, 1, -1, ∞, 2, and F(3,2) over the first four ------------------------------------
 *
 * In this order, with G scaled alike, both use the same transformed taps:
 *
 *          1    0                     1  -½  -1   ½   0            1   0  -1   0
 *          ½    ½                     0   2   1  -1   0            0   1   1   0            1  1  1  0  1
 *     G =  ½   -½       Bᵀ of F(4,2): 0 -2/3  1 -1/3  0   F(3,2):  0  -1   1   0   Aᵀ of    0  1 -1  0  2
 *          0    1                     0   2  -1  -2   1            0  -1   0   1   F(4,2):  0  1  1  0  4
 *         1/6  1/3                    0  -1   0   1   0                                     0  1 -1  1  8
 *
 * Aᵀ of F(3,2) lacks the last column, and has its 1 for ∞ in the third row, its last.
 */
#endif
