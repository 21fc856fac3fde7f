/* Face -> inside of the padded image (its padding is already zero). Plain C that the compiler vectorises. */

static void load_u8(const uint8_t *face, float *image) {
    image += MXN_IMAGE_PADDING * (MXN_IMAGE_PITCH + 1);
    for (int y = 0; y < MXN_FACE_SIZE; y++, face += MXN_FACE_SIZE, image += MXN_IMAGE_PITCH)
        for (int x = 0; x < MXN_FACE_SIZE; x++) image[x] = (float)face[x];
}

static bool load_f32(const float *face, float *image) {
    /* All bits of the exponent set means NaN or infinity; max keeps the largest. */
    int32_t largest = 0;
    image += MXN_IMAGE_PADDING * (MXN_IMAGE_PITCH + 1);
    for (int y = 0; y < MXN_FACE_SIZE; y++, face += MXN_FACE_SIZE, image += MXN_IMAGE_PITCH)
        for (int x = 0; x < MXN_FACE_SIZE; x++) {
            union {
                float value;
                int32_t bits;
            } pixel = {face[x]};
            const int32_t magnitude = pixel.bits & 0x7FFFFFFF;
            largest = magnitude > largest ? magnitude : largest;
            image[x] = pixel.value;
        }
    return largest < 0x7F800000;
}
