/* Face -> inside of the padded image of bytes (its padding is already zero). Plain C that the compiler vectorises. */

static void int8_load_u8(const uint8_t *face, uint8_t *image) {
    image += MXN_IMAGE_PADDING * (MXN_IMAGE_PITCH + 1);
    for (int y = 0; y < MXN_FACE_SIZE; y++, face += MXN_FACE_SIZE, image += MXN_IMAGE_PITCH)
        memcpy(image, face, MXN_FACE_SIZE);
}

/* Rounds, halves to even, and clamps. */
static bool int8_load_f32(const float *face, uint8_t *image) {
    /* Adding 2^23 rounds to a whole number, which is then the lowest bits. */
    const float round = 8388608.0f;
    int32_t largest = 0;
    image += MXN_IMAGE_PADDING * (MXN_IMAGE_PITCH + 1);
    for (int y = 0; y < MXN_FACE_SIZE; y++, face += MXN_FACE_SIZE, image += MXN_IMAGE_PITCH)
        for (int x = 0; x < MXN_FACE_SIZE; x++) {
            union {
                float value;
                int32_t bits;
            } pixel = {face[x]}, rounded;
            /* As in load_f32: all bits of the exponent set means NaN or infinity. */
            const int32_t magnitude = pixel.bits & 0x7FFFFFFF;
            largest = magnitude > largest ? magnitude : largest;
            const float positive = pixel.value > 0 ? pixel.value : 0;
            rounded.value = (positive < 255 ? positive : 255) + round;
            image[x] = (uint8_t)rounded.bits;
        }
    return largest < 0x7F800000;
}
