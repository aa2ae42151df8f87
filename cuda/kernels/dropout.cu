// y = x / (1 - p), or 0 where the element's Philox word is below p 2^32; element i, row-major, has word i of the stream.
//
// Launch: 256 threads a block, each with 16 bytes of one row.
// Bytes per element: reads x, writes y.
// budget: registers 32, blocks 6
#include "device.cuh"

template <class T>
__device__ void dropout(const T* x, i64 ldx, T* y, i64 ldy, u32 rows, i64 cols, u32 threshold, float scale, u64 seed,
                        u64 stream) {
    constexpr int n = Pack<T>::n;
    const Place at = place<n>(rows, cols);
    if (at.count == 0) return;
    const u64 element = at.row * u64(cols) + at.col;
    const int skip = element % 4;
    u32 kept = 0;
    // Not unrolled: a pack that starts amid four words needs one group more.
#pragma unroll 1
    for (int group = 0; 4 * group < skip + n; ++group) {
        const uint4 words = philox(seed, stream, element / 4 + group);
        const u32 bits = u32(words.x >= threshold) | u32(words.y >= threshold) << 1 | u32(words.z >= threshold) << 2 |
                         u32(words.w >= threshold) << 3;
        kept |= bits << (4 * group);
    }
    kept >>= skip;
    x += at.row * ldx + at.col, y += at.row * ldy + at.col;
    Pack<T> pack = load_pack(x, 0, at.count, aligned16(x, 0));
#pragma unroll
    for (int i = 0; i < n; ++i) pack.v[i] = kept >> i & 1 ? pack.v[i] * scale : 0.f;
    store_pack(y, 0, at.count, aligned16(y, 0), pack);
}

#define INSTANCE(T)                                                                                                   \
    KERNEL(256, 6)                                                                                                    \
    dropout_##T(const T* x, i64 ldx, T* y, i64 ldy, u32 rows, i64 cols, u32 threshold, float scale, u64 seed,         \
                u64 stream) {                                                                                         \
        dropout(x, ldx, y, ldy, rows, cols, threshold, scale, seed, stream);                                          \
    }
INSTANCE(f32)
INSTANCE(bf16)
