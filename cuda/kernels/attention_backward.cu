// Gradient of self-attention over fused q|k|v columns (arXiv 2205.14135, 2307.08691), deterministic: every sum has one
// owner. With p = exp(scale q kᵀ - lse) and delta = rowsum(do * o): dv = pᵀ do, ds = p * (do vᵀ - delta), dq = scale ds
// k, dk = scale dsᵀ q. bf16 on tensor cores (mma.sync), sums in f32.
//
// Three launches. `attention_delta`: eight lanes per token and head leave (lse log2 e, delta) as [heads, tokens] f32
// pairs. `attention_dq`: four warps per tile of queries and head; keys and values pass by. `attention_dkdv`: four warps
// per tile of keys and key head; queries and output gradients of all query heads that read it pass by, head after head.
// Grids are sized for T / tile + documents + 1 tiles; blocks find theirs on the device; those with most work come first.
// Flops per query, head and key seen: 6 head_dim for dq, 8 for dk and dv.
// budget: registers 244, blocks 1, shared 103 KiB
#include "device.cuh"

static constexpr int THREADS = 128, STAGES = 2;
static constexpr float LOG2E = 1.44269504f;

template <class T>
__device__ __forceinline__ void delta(const T* o, i64 ldo, const T* d_o, i64 ld_do, const float* lse, i64 ld_lse, int t,
                                      int heads, int cols, float2* statistics) {
    constexpr int lanes = 8, n = Pack<T>::n;
    const u32 task = blockIdx.x * (THREADS / lanes) + threadIdx.x / lanes;
    const int row = task / u32(heads), head = task % u32(heads);
    float sum = 0.f;
    if (row < t) {
        o += row * ldo + head * cols, d_o += row * ld_do + head * cols;
        const bool wide = aligned16(o, 0) && aligned16(d_o, 0);
#pragma unroll 1
        for (int col = threadIdx.x % lanes * n; col < cols; col += lanes * n) {
            const Pack<T> a = load_pack(o, col, cols, wide), b = load_pack(d_o, col, cols, wide);
#pragma unroll
            for (int i = 0; i < n; ++i) sum = fmaf(a.v[i], b.v[i], sum);
        }
    }
    __syncwarp();
#pragma unroll
    for (int offset = lanes / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(FULL, sum, offset);
    if (row < t && threadIdx.x % lanes == 0)
        statistics[head * i64(t) + row] = make_float2(lse[row * ld_lse + head] * LOG2E, sum);
}

// Tiles of a block: its own rows stay, the others pass by. Rows are queries (q, do) and the others keys (k, v), or the other
// way round. 16 M rows a warp, N rows that pass by at a time: as many as the sums leave registers for.
template <int D, bool BY_KEY> struct Shared {
    static constexpr int M = D > (BY_KEY ? 32 : 80) ? 1 : 2, N = M == 2 || (BY_KEY && D > 96) ? 32 : 64;
    static constexpr int ROWS = THREADS / 32 * 16 * M;
    Tile<ROWS, D> own[2];
    Tile<N, D> other[STAGES][2];
    float2 statistics[STAGES][N];
};

template <int D, bool BY_KEY>
__device__ __forceinline__ void gradient(const bf16* qkv, i64 ld, const u32* bounds, int documents, int t, int heads,
                                         int group, int cols, float scale, int causal, const float2* statistics,
                                         const bf16* d_o, i64 ld_do, bf16* dqkv, i64 ld_dqkv) {
    using Tiles = Shared<D, BY_KEY>;
    constexpr int M = Tiles::M, N = Tiles::N, ROWS = Tiles::ROWS;
    extern __shared__ uint4 dynamic[];
    Tiles& shared = *reinterpret_cast<Tiles*>(dynamic);
    const int kv_heads = heads / group, own_heads = BY_KEY ? kv_heads : heads, head = blockIdx.x % own_heads;
    DocumentTile at;
    if (!find_tile(bounds, documents, t, ROWS, blockIdx.x / own_heads, at)) return;
    const int len = at.rows.len, first = (BY_KEY ? at.tile : at.tiles - 1 - at.tile) * ROWS;
    const int kv = BY_KEY ? head : head / group;
    const int k_col = (heads + kv) * cols, v_col = k_col + kv_heads * cols;
    qkv += at.rows.begin * ld, d_o += at.rows.begin * ld_do, dqkv += at.rows.begin * ld_dqkv;
    statistics += at.rows.begin;

    // Tiles that pass by: of the keys up to the last query, or of the queries from the first key, once per query head.
    const int begin = BY_KEY && causal ? first / N : 0;
    const int end = (!BY_KEY && causal ? min(first + ROWS, len) : len) + N - 1;
    const int tiles = at.document == documents ? 0 : end / N - begin, steps = BY_KEY ? tiles * group : tiles;
    const bool wide = aligned16(qkv, ld) && aligned16(d_o, ld_do) && cols % 8 == 0;
    auto load = [&](int step) {
        const int stage = step % STAGES;
        if constexpr (BY_KEY) {
            const int h = head * group + step / tiles, row = (begin + step % tiles) * N;
            load_tile<THREADS>(shared.other[stage][0], qkv + h * cols, ld, row, len, cols, wide);
            load_tile<THREADS>(shared.other[stage][1], d_o + h * cols, ld_do, row, len, cols, wide);
            const int query = row + threadIdx.x;
            if (threadIdx.x < N)
                cp_async8(shared_address(&shared.statistics[stage][threadIdx.x]),
                          &statistics[h * i64(t) + min(query, len - 1)], query < len ? 8 : 0);
        } else {
            load_tile<THREADS>(shared.other[stage][0], qkv + k_col, ld, step * N, len, cols, wide);
            load_tile<THREADS>(shared.other[stage][1], qkv + v_col, ld, step * N, len, cols, wide);
        }
    };
    if (steps > 0) {
        load_tile<THREADS>(shared.own[0], BY_KEY ? qkv + k_col : qkv + head * cols, ld, first, len, cols, wide);
        load_tile<THREADS>(shared.own[1], BY_KEY ? qkv + v_col : d_o + head * cols, BY_KEY ? ld : ld_do, first, len, cols,
                           wide);
        load(0);
        cp_async_commit();
    }

    const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16 * M, row = first + warp_row;
    const float scale2 = scale * LOG2E;
    float2 own_statistics[M][2];
    if constexpr (!BY_KEY) {
#pragma unroll
        for (int i = 0; i < 2 * M; ++i) {
            const int query = row + i * 8 + lane / 4;
            own_statistics[i / 2][i % 2] = statistics[head * i64(t) + min(query, len - 1)];
        }
    }
    Accumulator<M, D / 8> sum_s, sum_p;  // ds times q or k; p times do (keys only)
    sum_s.clear();
    if constexpr (BY_KEY) sum_p.clear();

#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
        cp_async_wait<0>();
        __syncthreads();  // the tiles have come for all warps, and all have left the stage that is filled next
        if (step + 1 < steps) load(step + 1);
        cp_async_commit();
        const int stage = step % STAGES, other = (BY_KEY ? begin + step % tiles : step) * N;
        if (row >= len || (causal && (BY_KEY ? other + N <= row : other > row + 16 * M - 1))) continue;

        Accumulator<M, N / 8> p, ds;
        multiply_rows<D>(p, SharedRows<D, M>{left_address(shared.own[0], warp_row)},
                         right_address(shared.other[stage][0]));
        multiply_rows<D>(ds, SharedRows<D, M>{left_address(shared.own[1], warp_row)},
                         right_address(shared.other[stage][1]));
        const bool masked =
            (!BY_KEY && other + N > len) || (causal && (BY_KEY ? other < row + 16 * M - 1 : other + N > row + 1));
#pragma unroll
        for (int n = 0; n < N / 8; ++n) {
            float2 other_statistics[2];
            if constexpr (BY_KEY) {
                const float4 pair = *reinterpret_cast<const float4*>(&shared.statistics[stage][n * 8 + lane % 4 * 2]);
                other_statistics[0] = make_float2(pair.x, pair.y), other_statistics[1] = make_float2(pair.z, pair.w);
            }
#pragma unroll
            for (int m = 0; m < M; ++m)
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    const int mine = row + m * 16 + e / 2 * 8 + lane / 4, theirs = other + n * 8 + lane % 4 * 2 + e % 2;
                    const float2 of_query = BY_KEY ? other_statistics[e % 2] : own_statistics[m][e / 2];
                    float x = exp2_approx(p.at[m][n][e] * scale2 - of_query.x);
                    if (masked && ((causal && (BY_KEY ? theirs < mine : theirs > mine)) || theirs >= len)) x = 0.f;
                    p.at[m][n][e] = x;
                    ds.at[m][n][e] = x * (ds.at[m][n][e] - of_query.y);
                }
        }
        if constexpr (BY_KEY) multiply_add<D>(sum_p, p, left_address(shared.other[stage][1], 0));
        multiply_add<D>(sum_s, ds, left_address(shared.other[stage][0], 0));
    }
    cp_async_wait<0>();

    const bool wide_out = aligned16(dqkv, ld_dqkv) && cols % 8 == 0;
    const int s_col = BY_KEY ? k_col : head * cols;
    store_rows<ROWS, D>(
        sum_s, [&](int, int) { return scale; }, shared.own[0], warp_row, dqkv + s_col, ld_dqkv, first, len, cols,
        wide_out);
    if constexpr (BY_KEY)
        store_rows<ROWS, D>(
            sum_p, [](int, int) { return 1.f; }, shared.own[1], warp_row, dqkv + v_col, ld_dqkv, first, len, cols,
            wide_out);
}

#define DELTA(T)                                                                                                      \
    KERNEL(THREADS, 8)                                                                                                \
    attention_delta_##T(const T* o, i64 ldo, const T* d_o, i64 ld_do, const float* lse, i64 ld_lse, int t, int heads, \
                        int cols, float2* statistics) {                                                               \
        delta(o, ldo, d_o, ld_do, lse, ld_lse, t, heads, cols, statistics);                                           \
    }
DELTA(f32)
DELTA(bf16)

#define GRADIENT(NAME, D, BY_KEY, BLOCKS)                                                                               \
    KERNEL(THREADS, BLOCKS)                                                                                             \
    NAME(const bf16* qkv, i64 ld, const u32* bounds, int documents, int t, int heads, int group, int cols, float scale, \
         int causal, const float2* statistics, const bf16* d_o, i64 ld_do, bf16* dqkv, i64 ld_dqkv) {                   \
        gradient<D, BY_KEY>(qkv, ld, bounds, documents, t, heads, group, cols, scale, causal, statistics, d_o, ld_do,   \
                            dqkv, ld_dqkv);                                                                             \
    }
#define INSTANCE(D, BLOCKS)                              \
    GRADIENT(attention_dq_d##D##_bf16, D, false, BLOCKS) \
    GRADIENT(attention_dkdv_d##D##_bf16, D, true, BLOCKS)
INSTANCE(16, 3)
INSTANCE(32, 2)
INSTANCE(64, 2)
INSTANCE(80, 2)
INSTANCE(96, 2)
INSTANCE(128, 2)
