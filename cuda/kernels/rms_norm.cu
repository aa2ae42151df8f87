// Root-mean-square norm (arXiv 1910.07467): s = x + residual; y = s rstd weight, rstd = 1 / sqrt(mean(s^2) + eps); and its
// gradient: with g = dy weight and n = s rstd, dx = dsum + rstd (g - n mean(g n)), dweight += sum over rows of dy n.
//
// Launch: 256 threads a block. Forward: one block per row. A row stays in registers up to 8,192 columns (bf16; 4,096 f32),
// longer rows are read again. Backward: one block per chunk of rows; it leaves the chunk's share of dweight in a row of
// `partial`, which `column_sums` adds up. Up to 4,096 columns (bf16; 2,048 f32) stay in registers.
// Bytes per element: forward reads x, (residual), writes y, (sum); backward reads dy, s, (dsum), writes dx: 2 to 4 times
// the element's size.
// budget: registers 80, blocks 3
#include "device.cuh"

static constexpr int THREADS = 256, KEEP = 4, GRAD_KEEP = 2;

template <int N, class T>
__device__ void forward(const T* x, i64 ldx, const T* residual, i64 ld_residual, T* sum, i64 ld_sum, const T* weight,
                        float eps, T* y, i64 ldy, float* rstd, int cols) {
    constexpr int stride = THREADS * N;
    __shared__ float scratch[THREADS / 32];
    const i64 row = blockIdx.x;
    x += row * ldx, y += row * ldy;
    if (residual) residual += row * ld_residual, sum += row * ld_sum;

    // What is normalised is the sum as it is stored, so that the backward pass sees the same values.
    auto input = [&](int col) {
        Floats<N> s = load<N>(x + col);
        if (residual) {
            const Floats<N> r = load<N>(residual + col);
#pragma unroll
            for (int i = 0; i < N; ++i) s.v[i] = rounded<T>(s.v[i] + r.v[i]);
        }
        return s;
    };

    Floats<N> kept[KEEP];
    float squares = 0.f;
    auto add = [&](const Floats<N>& s, int col) {
        if (residual) store(sum + col, s);
#pragma unroll
        for (int i = 0; i < N; ++i) squares += s.v[i] * s.v[i];
    };
    const int first = threadIdx.x * N;
#pragma unroll
    for (int k = 0; k < KEEP; ++k) {
        const int col = first + k * stride;
        if (col < cols) add(kept[k] = input(col), col);
    }
#pragma unroll 1
    for (int col = first + KEEP * stride; col < cols; col += stride) add(input(col), col);

    const float scale = rsqrtf(block_sum<THREADS>(squares, scratch) / cols + eps);
    if (threadIdx.x == 0) rstd[row] = scale;
    auto write = [&](Floats<N> s, int col) {
        const Floats<N> w = load<N>(weight + col);
#pragma unroll
        for (int i = 0; i < N; ++i) s.v[i] *= scale * w.v[i];
        store(y + col, s);
    };
#pragma unroll
    for (int k = 0; k < KEEP; ++k) {
        const int col = first + k * stride;
        if (col < cols) write(kept[k], col);
    }
#pragma unroll 1
    for (int col = first + KEEP * stride; col < cols; col += stride) write(input(col), col);
}

template <int N, class T>
__device__ void backward(const T* dy, i64 ld_dy, const T* sum, i64 ld_sum, const T* weight, const float* rstd,
                         const T* dsum, i64 ld_dsum, T* dx, i64 ld_dx, float* partial, i64 ld_partial, int rows, int cols,
                         int chunk) {
    constexpr int stride = THREADS * N;
    __shared__ float scratch[THREADS / 32];
    const bool has_dx = dx, has_dsum = dsum;
    const int first = threadIdx.x * N;
    const i64 begin = i64(blockIdx.x) * chunk, end = min(begin + chunk, i64(rows));
    partial += blockIdx.x * ld_partial;
    dy += begin * ld_dy, sum += begin * ld_sum, dsum += begin * ld_dsum, dx += begin * ld_dx;

    Floats<N> dweight[GRAD_KEEP] = {};
#pragma unroll 1
    for (i64 row = begin; row < end; ++row) {
        const float scale = rstd[row];
        float dot = 0.f;
        // dy n goes to `dw`; what remains is g and n.
        auto input = [&](int col, Floats<N>& g, Floats<N>& n, Floats<N>& dw) {
            g = load<N>(dy + col), n = load<N>(sum + col);
            const Floats<N> w = load<N>(weight + col);
#pragma unroll
            for (int i = 0; i < N; ++i) {
                n.v[i] *= scale;
                dw.v[i] += g.v[i] * n.v[i];
                g.v[i] *= w.v[i];
            }
        };
        auto add = [&](const Floats<N>& g, const Floats<N>& n) {
#pragma unroll
            for (int i = 0; i < N; ++i) dot += g.v[i] * n.v[i];
        };
        Floats<N> g[GRAD_KEEP], n[GRAD_KEEP];
#pragma unroll
        for (int k = 0; k < GRAD_KEEP; ++k) {
            const int col = first + k * stride;
            if (col < cols) input(col, g[k], n[k], dweight[k]), add(g[k], n[k]);
        }
        // Only this thread touches these columns of this row of `partial`.
#pragma unroll 1
        for (int col = first + GRAD_KEEP * stride; col < cols; col += stride) {
            Floats<N> g, n, dw = {};
            if (row > begin) dw = load<N>(partial + col);
            input(col, g, n, dw), add(g, n);
            store(partial + col, dw);
        }
        if (has_dx) {
            const float mean = block_sum<THREADS>(dot, scratch) / cols;
            auto write = [&](Floats<N> g, const Floats<N>& n, int col) {
                Floats<N> d = {};
                if (has_dsum) d = load<N>(dsum + col);
#pragma unroll
                for (int i = 0; i < N; ++i) d.v[i] += scale * (g.v[i] - n.v[i] * mean);
                store(dx + col, d);
            };
#pragma unroll
            for (int k = 0; k < GRAD_KEEP; ++k) {
                const int col = first + k * stride;
                if (col < cols) write(g[k], n[k], col);
            }
#pragma unroll 1
            for (int col = first + GRAD_KEEP * stride; col < cols; col += stride) {
                Floats<N> g, n, unused = {};
                input(col, g, n, unused);
                write(g, n, col);
            }
        }
        dy += ld_dy, sum += ld_sum, dsum += ld_dsum, dx += ld_dx;
    }
#pragma unroll
    for (int k = 0; k < GRAD_KEEP; ++k) {
        const int col = first + k * stride;
        if (col < cols) store(partial + col, dweight[k]);
    }
}

#define INSTANCE(T)                                                                                                       \
    KERNEL(THREADS, 4)                                                                                                    \
    rms_norm_##T(const T* x, i64 ldx, const T* residual, i64 ld_residual, T* sum, i64 ld_sum, const T* weight, float eps, \
                 T* y, i64 ldy, float* rstd, int cols) {                                                                  \
        constexpr int n = Pack<T>::n;                                                                                     \
        if (cols % n == 0 && aligned16(x, ldx) && aligned16(residual, ld_residual) && aligned16(sum, ld_sum) &&           \
            aligned16(weight, 0) && aligned16(y, ldy))                                                                    \
            forward<n>(x, ldx, residual, ld_residual, sum, ld_sum, weight, eps, y, ldy, rstd, cols);                      \
        else                                                                                                              \
            forward<1>(x, ldx, residual, ld_residual, sum, ld_sum, weight, eps, y, ldy, rstd, cols);                      \
    }                                                                                                                     \
    KERNEL(THREADS, 3)                                                                                                    \
    rms_norm_backward_##T(const T* dy, i64 ld_dy, const T* sum, i64 ld_sum, const T* weight, const float* rstd,           \
                          const T* dsum, i64 ld_dsum, T* dx, i64 ld_dx, float* partial, i64 ld_partial, int rows,         \
                          int cols, int chunk) {                                                                          \
        constexpr int n = Pack<T>::n;                                                                                     \
        if (cols % n == 0 && aligned16(dy, ld_dy) && aligned16(sum, ld_sum) && aligned16(weight, 0) &&                    \
            aligned16(dsum, ld_dsum) && aligned16(dx, ld_dx))                                                             \
            backward<n>(dy, ld_dy, sum, ld_sum, weight, rstd, dsum, ld_dsum, dx, ld_dx, partial, ld_partial, rows, cols,  \
                        chunk);                                                                                           \
        else                                                                                                              \
            backward<1>(dy, ld_dy, sum, ld_sum, weight, rstd, dsum, ld_dsum, dx, ld_dx, partial, ld_partial, rows, cols,  \
                        chunk);                                                                                           \
    }
INSTANCE(f32)
INSTANCE(bf16)
