// Layer norm (arXiv 1607.06450): y = n weight + bias, n = (x - mean) rstd, rstd = 1 / sqrt(var + eps); and its gradient:
// with g = dy weight, dx = rstd (g - mean(g) - n mean(g n)), dweight += sum over rows of dy n, dbias += sum of dy.
//
// Launch: 256 threads a block. Forward: one block per row. A row stays in registers up to 4,096 columns (bf16; 2,048 f32),
// longer rows are read again. Backward: one block per chunk of rows; it leaves the chunk's shares of dweight and dbias in a
// row of each of two arrays, which `column_sums` adds up. Half as many columns stay in registers.
// Bytes per element: forward reads x, writes y; backward reads dy and x, writes dx: 2 or 3 times the element's size.
// budget: registers 80, blocks 3
#include "device.cuh"

static constexpr int THREADS = 256, KEEP = 2, GRAD_KEEP = 1;

template <int N, class T>
__device__ void forward(const T* x, i64 ldx, const T* weight, const T* bias, float eps, T* y, i64 ldy, float* means,
                        float* rstds, int cols) {
    constexpr int stride = THREADS * N;
    __shared__ float scratch[THREADS / 32];
    const i64 row = blockIdx.x;
    const int first = threadIdx.x * N, rest = first + KEEP * stride;
    x += row * ldx, y += row * ldy;

    Floats<N> kept[KEEP] = {};
    float sum = 0.f;
    auto add = [&](const Floats<N>& v) {
#pragma unroll
        for (int i = 0; i < N; ++i) sum += v.v[i];
    };
#pragma unroll
    for (int k = 0; k < KEEP; ++k) {
        const int col = first + k * stride;
        if (col < cols) add(kept[k] = load<N>(x + col));
    }
#pragma unroll 1
    for (int col = rest; col < cols; col += stride) add(load<N>(x + col));
    const float mean = block_sum<THREADS>(sum, scratch) / cols;

    float squares = 0.f;
    auto square = [&](const Floats<N>& v) {
#pragma unroll
        for (int i = 0; i < N; ++i) squares += (v.v[i] - mean) * (v.v[i] - mean);
    };
#pragma unroll
    for (int k = 0; k < KEEP; ++k)
        if (first + k * stride < cols) square(kept[k]);
#pragma unroll 1
    for (int col = rest; col < cols; col += stride) square(load<N>(x + col));
    const float scale = rsqrtf(block_sum<THREADS>(squares, scratch) / cols + eps);
    if (threadIdx.x == 0) means[row] = mean, rstds[row] = scale;

    auto write = [&](Floats<N> v, int col) {
        const Floats<N> w = load<N>(weight + col), b = load<N>(bias + col);
#pragma unroll
        for (int i = 0; i < N; ++i) v.v[i] = (v.v[i] - mean) * scale * w.v[i] + b.v[i];
        store(y + col, v);
    };
#pragma unroll
    for (int k = 0; k < KEEP; ++k) {
        const int col = first + k * stride;
        if (col < cols) write(kept[k], col);
    }
#pragma unroll 1
    for (int col = rest; col < cols; col += stride) write(load<N>(x + col), col);
}

template <int N, class T>
__device__ void backward(const T* dy, i64 ld_dy, const T* x, i64 ldx, const T* weight, const float* means,
                         const float* rstds, T* dx, i64 ld_dx, float* dweights, float* dbiases, i64 ld_partial, int rows,
                         int cols, int chunk) {
    constexpr int stride = THREADS * N;
    __shared__ float scratch[THREADS / 32];
    const bool has_dx = dx;
    const int first = threadIdx.x * N, rest = first + GRAD_KEEP * stride;
    const i64 begin = i64(blockIdx.x) * chunk, end = min(begin + chunk, i64(rows));
    dweights += blockIdx.x * ld_partial, dbiases += blockIdx.x * ld_partial;
    dy += begin * ld_dy, x += begin * ldx, dx += begin * ld_dx;

    Floats<N> dweight[GRAD_KEEP] = {}, dbias[GRAD_KEEP] = {};
#pragma unroll 1
    for (i64 row = begin; row < end; ++row) {
        const float mean = means[row], scale = rstds[row];
        float sum = 0.f, dot = 0.f;
        // dy n goes to `dw`, dy to `db`; what remains is g and n.
        auto input = [&](int col, Floats<N>& g, Floats<N>& n, Floats<N>& dw, Floats<N>& db) {
            g = load<N>(dy + col), n = load<N>(x + col);
            const Floats<N> w = load<N>(weight + col);
#pragma unroll
            for (int i = 0; i < N; ++i) {
                n.v[i] = (n.v[i] - mean) * scale;
                dw.v[i] += g.v[i] * n.v[i];
                db.v[i] += g.v[i];
                g.v[i] *= w.v[i];
            }
        };
        auto add = [&](const Floats<N>& g, const Floats<N>& n) {
#pragma unroll
            for (int i = 0; i < N; ++i) sum += g.v[i], dot += g.v[i] * n.v[i];
        };
        Floats<N> g[GRAD_KEEP], n[GRAD_KEEP];
#pragma unroll
        for (int k = 0; k < GRAD_KEEP; ++k) {
            const int col = first + k * stride;
            if (col < cols) input(col, g[k], n[k], dweight[k], dbias[k]), add(g[k], n[k]);
        }
        // Only this thread touches these columns of this row of the two arrays.
#pragma unroll 1
        for (int col = rest; col < cols; col += stride) {
            Floats<N> g, n, dw = {}, db = {};
            if (row > begin) dw = load<N>(dweights + col), db = load<N>(dbiases + col);
            input(col, g, n, dw, db), add(g, n);
            store(dweights + col, dw), store(dbiases + col, db);
        }
        if (has_dx) {
            const float mean_g = block_sum<THREADS>(sum, scratch) / cols, mean_gn = block_sum<THREADS>(dot, scratch) / cols;
            auto write = [&](Floats<N> g, const Floats<N>& n, int col) {
#pragma unroll
                for (int i = 0; i < N; ++i) g.v[i] = scale * (g.v[i] - mean_g - n.v[i] * mean_gn);
                store(dx + col, g);
            };
#pragma unroll
            for (int k = 0; k < GRAD_KEEP; ++k) {
                const int col = first + k * stride;
                if (col < cols) write(g[k], n[k], col);
            }
#pragma unroll 1
            for (int col = rest; col < cols; col += stride) {
                Floats<N> g, n, unused = {}, unused_too = {};
                input(col, g, n, unused, unused_too);
                write(g, n, col);
            }
        }
        dy += ld_dy, x += ldx, dx += ld_dx;
    }
#pragma unroll
    for (int k = 0; k < GRAD_KEEP; ++k) {
        const int col = first + k * stride;
        if (col < cols) store(dweights + col, dweight[k]), store(dbiases + col, dbias[k]);
    }
}

#define INSTANCE(T)                                                                                                       \
    KERNEL(THREADS, 4)                                                                                                    \
    layer_norm_##T(const T* x, i64 ldx, const T* weight, const T* bias, float eps, T* y, i64 ldy, float* means,           \
                   float* rstds, int cols) {                                                                              \
        constexpr int n = Pack<T>::n;                                                                                     \
        if (cols % n == 0 && aligned16(x, ldx) && aligned16(weight, 0) && aligned16(bias, 0) && aligned16(y, ldy))        \
            forward<n>(x, ldx, weight, bias, eps, y, ldy, means, rstds, cols);                                            \
        else                                                                                                              \
            forward<1>(x, ldx, weight, bias, eps, y, ldy, means, rstds, cols);                                            \
    }                                                                                                                     \
    KERNEL(THREADS, 3)                                                                                                    \
    layer_norm_backward_##T(const T* dy, i64 ld_dy, const T* x, i64 ldx, const T* weight, const float* means,             \
                            const float* rstds, T* dx, i64 ld_dx, float* dweights, float* dbiases, i64 ld_partial,        \
                            int rows, int cols, int chunk) {                                                              \
        constexpr int n = Pack<T>::n;                                                                                     \
        if (cols % n == 0 && aligned16(dy, ld_dy) && aligned16(x, ldx) && aligned16(weight, 0) && aligned16(dx, ld_dx))   \
            backward<n>(dy, ld_dy, x, ldx, weight, means, rstds, dx, ld_dx, dweights, dbiases, ld_partial, rows, cols,    \
                        chunk);                                                                                           \
        else                                                                                                              \
            backward<1>(dy, ld_dy, x, ldx, weight, means, rstds, dx, ld_dx, dweights, dbiases, ld_partial, rows, cols,    \
                        chunk);                                                                                           \
    }
INSTANCE(f32)
INSTANCE(bf16)
