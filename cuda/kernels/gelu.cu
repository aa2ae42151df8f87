// y = gelu(x) in its three forms (arXiv 1606.08415), and dx = dy gelu'(x).
//
// Launch: 256 threads a block, each with 16 bytes of one row.
// Bytes per element: forward 2, backward 3 times the element's size.
// budget: registers 40, blocks 6
#include "device.cuh"

enum Kind { ERF, TANH, QUICK };

static constexpr float SQRT_2_OVER_PI = 0.797884561f, CUBIC = 0.044715f, INV_SQRT_2 = 0.707106781f;

// gelu(x) = x gate(x), and the gate's slope; (1 + tanh(z)) / 2 = sigmoid(2 z), so that two forms differ in z alone.
__device__ __forceinline__ float gate(int kind, float x, float& slope) {
    if (kind == ERF) {
        slope = expf(-0.5f * x * x) * (0.5f * SQRT_2_OVER_PI);
        return 0.5f + 0.5f * erff(x * INV_SQRT_2);
    }
    const float linear = kind == TANH ? 2.f * SQRT_2_OVER_PI : 1.702f, cubic = kind == TANH ? CUBIC : 0.f;
    const float s = sigmoid(linear * (x + cubic * x * x * x));
    slope = linear * (1.f + 3.f * cubic * x * x) * s * (1.f - s);
    return s;
}

template <class T> __device__ void gelu(int kind, const T* x, i64 ldx, T* y, i64 ldy, u32 rows, i64 cols) {
    const Place at = place<Pack<T>::n>(rows, cols);
    if (at.count == 0) return;
    x += at.row * ldx + at.col, y += at.row * ldy + at.col;
    Pack<T> pack = load_pack(x, 0, at.count, aligned16(x, 0));
#pragma unroll
    for (int i = 0; i < Pack<T>::n; ++i) {
        float slope;
        pack.v[i] *= gate(kind, pack.v[i], slope);
    }
    store_pack(y, 0, at.count, aligned16(y, 0), pack);
}

template <class T>
__device__ void backward(int kind, const T* dy, i64 ld_dy, const T* x, i64 ldx, T* dx, i64 ld_dx, u32 rows, i64 cols) {
    const Place at = place<Pack<T>::n>(rows, cols);
    if (at.count == 0) return;
    dy += at.row * ld_dy + at.col, x += at.row * ldx + at.col, dx += at.row * ld_dx + at.col;
    const Pack<T> d = load_pack(dy, 0, at.count, aligned16(dy, 0));
    Pack<T> pack = load_pack(x, 0, at.count, aligned16(x, 0));
#pragma unroll
    for (int i = 0; i < Pack<T>::n; ++i) {
        float slope;
        const float value = gate(kind, pack.v[i], slope);
        pack.v[i] = d.v[i] * (value + pack.v[i] * slope);
    }
    store_pack(dx, 0, at.count, aligned16(dx, 0), pack);
}

#define INSTANCE(T)                                                                                                 \
    KERNEL(256, 6) gelu_##T(int kind, const T* x, i64 ldx, T* y, i64 ldy, u32 rows, i64 cols) {                     \
        gelu(kind, x, ldx, y, ldy, rows, cols);                                                                     \
    }                                                                                                               \
    KERNEL(256, 6)                                                                                                  \
    gelu_backward_##T(int kind, const T* dy, i64 ld_dy, const T* x, i64 ldx, T* dx, i64 ld_dx, u32 rows, i64 cols) { \
        backward(kind, dy, ld_dy, x, ldx, dx, ld_dx, rows, cols);                                                   \
    }
INSTANCE(f32)
INSTANCE(bf16)
