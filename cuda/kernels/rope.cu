// Rotary position embedding in place, half-split: x[i], x[i + C/2] of each head are rotated by the angle of the row's
// position (cos, sin: tables in f32); `sign` -1 rotates back.
//
// Launch: 256 threads a block, each with 16 bytes of the lower half of one head and their partners in the upper half.
// Bytes per element: reads and writes x; the tables stay in the L2 cache.
// budget: registers 40, blocks 6
#include "device.cuh"

template <class T>
__device__ void rope(T* x, i64 ldx, const float* cos, i64 ld_cos, const float* sin, i64 ld_sin, const u32* positions,
                     u32 table_rows, u32 rows, int heads, int half, float sign, IndexFault* fault, u32 op) {
    constexpr int n = Pack<T>::n;
    const u32 packs = (half + n - 1) / n;
    const Place at = place<n>(rows, i64(heads) * packs * n);
    if (at.count == 0) return;
    const u32 position = positions[at.row];
    if (position >= table_rows) {
        report(fault, op, at.row, position, table_rows);
        return;
    }
    const u32 pack = u32(at.col / n), head = pack / packs, col = (pack - head * packs) * n;
    const int count = min(n, half - int(col));
    T* low = x + at.row * ldx + 2 * head * half + col;
    T* high = low + half;
    cos += position * ld_cos + col, sin += position * ld_sin + col;
    const bool wide_low = aligned16(low, 0), wide_high = aligned16(high, 0);
    Pack<T> a = load_pack(low, 0, count, wide_low), b = load_pack(high, 0, count, wide_high);
#pragma unroll
    for (int k = 0; k < n; k += 4) {
        const Pack<float> c = load_pack(cos, k, count, aligned16(cos, 0));
        const Pack<float> s = load_pack(sin, k, count, aligned16(sin, 0));
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float from = a.v[k + i], to = b.v[k + i], angle = sign * s.v[i];
            a.v[k + i] = from * c.v[i] - to * angle;
            b.v[k + i] = to * c.v[i] + from * angle;
        }
    }
    store_pack(low, 0, count, wide_low, a);
    store_pack(high, 0, count, wide_high, b);
}

#define INSTANCE(T)                                                                                                       \
    KERNEL(256, 6)                                                                                                        \
    rope_##T(T* x, i64 ldx, const float* cos, i64 ld_cos, const float* sin, i64 ld_sin, const u32* positions,             \
             u32 table_rows, u32 rows, int heads, int half, float sign, IndexFault* fault, u32 op) {                      \
        rope(x, ldx, cos, ld_cos, sin, ld_sin, positions, table_rows, rows, heads, half, sign, fault, op);                \
    }
INSTANCE(f32)
INSTANCE(bf16)
