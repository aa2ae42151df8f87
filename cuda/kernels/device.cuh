// The only header of all kernels, compiled from memory: types, conversions, reductions, Philox, and one thin function per
// PTX instruction that C++ does not offer. No toolkit header, so that NVRTC needs no include path.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;
typedef float f32;

#define INFINITY __int_as_float(0x7f800000)
#define KERNEL(threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks)

static constexpr u32 NO_ROW = 0xffffffffu;
static constexpr u32 FULL = 0xffffffffu;

// ---- bf16 -----------------------------------------------------------------------------------------------------------

struct bf16 {
    u16 bits;
};

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float(u32(x.bits) << 16); }

// Two floats rounded to nearest even; `lo` in the lower half.
__device__ __forceinline__ u32 pack_bf16(float lo, float hi) {
    u32 packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(hi), "f"(lo));
    return packed;
}

template <class T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 from_float<bf16>(float x) { return bf16{u16(pack_bf16(x, 0.f))}; }

// ---- 16 bytes at a time ---------------------------------------------------------------------------------------------

// As many elements as 16 bytes hold, as floats.
template <class T> struct Pack {
    static constexpr int n = 16 / sizeof(T);
    float v[n];
};

// Whether every row of a matrix starts on 16 bytes.
template <class T> __device__ __forceinline__ bool aligned16(const T* p, i64 ld) {
    return ((u64(p) | u64(ld * sizeof(T))) & 15) == 0;
}

// Elements `col .. col + n` of a row; zeros from `cols` on. `wide`: the row starts on 16 bytes.
template <class T> __device__ __forceinline__ Pack<T> load_pack(const T* row, int col, int cols, bool wide) {
    Pack<T> pack;
    if (wide && col + Pack<T>::n <= cols) {
        const uint4 raw = *reinterpret_cast<const uint4*>(row + col);
        if constexpr (sizeof(T) == 4) {
            pack.v[0] = __uint_as_float(raw.x), pack.v[1] = __uint_as_float(raw.y);
            pack.v[2] = __uint_as_float(raw.z), pack.v[3] = __uint_as_float(raw.w);
        } else {
            const u32 words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                pack.v[2 * i] = __uint_as_float(words[i] << 16);
                pack.v[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
            }
        }
    } else {
#pragma unroll
        for (int i = 0; i < Pack<T>::n; ++i) pack.v[i] = col + i < cols ? to_float(row[col + i]) : 0.f;
    }
    return pack;
}

template <class T>
__device__ __forceinline__ void store_pack(T* row, int col, int cols, bool wide, const Pack<T>& pack) {
    if (wide && col + Pack<T>::n <= cols) {
        uint4 raw;
        if constexpr (sizeof(T) == 4) {
            raw = make_uint4(__float_as_uint(pack.v[0]), __float_as_uint(pack.v[1]), __float_as_uint(pack.v[2]),
                             __float_as_uint(pack.v[3]));
        } else {
            raw = make_uint4(pack_bf16(pack.v[0], pack.v[1]), pack_bf16(pack.v[2], pack.v[3]),
                             pack_bf16(pack.v[4], pack.v[5]), pack_bf16(pack.v[6], pack.v[7]));
        }
        *reinterpret_cast<uint4*>(row + col) = raw;
    } else {
#pragma unroll
        for (int i = 0; i < Pack<T>::n; ++i)
            if (col + i < cols) row[col + i] = from_float<T>(pack.v[i]);
    }
}

// N elements as floats, for code compiled twice: for 16 bytes at a time, and for one element where something does not start
// on 16 bytes.
template <int N> struct Floats {
    float v[N];
};

template <int N, class T> __device__ __forceinline__ Floats<N> load(const T* p) {
    Floats<N> floats;
    if constexpr (N == 1) {
        floats.v[0] = to_float(*p);
    } else {
        constexpr int n = Pack<T>::n;
#pragma unroll
        for (int i = 0; i < N; i += n) {
            const Pack<T> pack = load_pack(p, i, N, true);
#pragma unroll
            for (int j = 0; j < n; ++j) floats.v[i + j] = pack.v[j];
        }
    }
    return floats;
}

template <int N, class T> __device__ __forceinline__ void store(T* p, const Floats<N>& floats) {
    if constexpr (N == 1) {
        *p = from_float<T>(floats.v[0]);
    } else {
        constexpr int n = Pack<T>::n;
#pragma unroll
        for (int i = 0; i < N; i += n) {
            Pack<T> pack;
#pragma unroll
            for (int j = 0; j < n; ++j) pack.v[j] = floats.v[i + j];
            store_pack(p, i, N, true, pack);
        }
    }
}

// The part of a row-major matrix that a thread of a one-dimensional launch handles: `count` elements of `row` from `col`;
// none past the matrix. The host sees to it that thread numbers fit 32 bits.
struct Place {
    u32 row;
    int count;
    i64 col;
};

template <int N> __device__ __forceinline__ Place place(u32 rows, i64 cols) {
    const u32 packs = u32((cols + N - 1) / N), pack = blockIdx.x * blockDim.x + threadIdx.x;
    const u32 row = pack / packs;
    const i64 col = i64(pack - row * packs) * N;
    return Place{row, row < rows ? int(min(i64(N), cols - col)) : 0, col};
}

// What a store to type T leaves of x.
template <class T> __device__ __forceinline__ float rounded(float x) { return to_float(from_float<T>(x)); }

__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.f, 1.f + expf(-x)); }

// ---- reductions, in a fixed order -----------------------------------------------------------------------------------

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(FULL, x, offset);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(FULL, x, offset));
    return x;
}

// Sum over a block of THREADS threads, the same in all of them. `scratch` holds one float per warp and may be used again
// after the call without a barrier.
template <int THREADS> __device__ __forceinline__ float block_sum(float x, float* scratch) {
    constexpr int warps = THREADS / 32;
    x = warp_sum(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
    __syncthreads();
    x = scratch[threadIdx.x % 32 < warps ? threadIdx.x % 32 : 0];
    return warp_sum(threadIdx.x % 32 < warps ? x : 0.f);
}

// As above in f64.
template <int THREADS> __device__ __forceinline__ double block_sum(double x, double* scratch) {
    constexpr int warps = THREADS / 32;
    const auto warp_total = [](double y) {
#pragma unroll
        for (int offset = 16; offset > 0; offset /= 2) y += __shfl_xor_sync(FULL, y, offset);
        return y;
    };
    x = warp_total(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
    __syncthreads();
    x = scratch[threadIdx.x % 32 < warps ? threadIdx.x % 32 : 0];
    return warp_total(threadIdx.x % 32 < warps ? x : 0.0);
}

// ---- random bits: Philox4x32-10 (Salmon et al., SC 2011) --------------------------------------------------------------

// Words 4 index .. 4 index + 4 of stream (seed, stream): the same as `vila_engine::philox::words`.
__device__ __forceinline__ uint4 philox(u64 seed, u64 stream, u64 index) {
    uint4 c = make_uint4(u32(index), u32(index >> 32), u32(stream), u32(stream >> 32));
    u32 k0 = u32(seed), k1 = u32(seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const u64 p = u64(0xD2511F53u) * c.x, q = u64(0xCD9E8D57u) * c.z;
        c = make_uint4(u32(q >> 32) ^ c.y ^ k0, u32(q), u32(p >> 32) ^ c.w ^ k1, u32(p));
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    return c;
}

// ---- wrong indices --------------------------------------------------------------------------------------------------

// An index outside its table. The first one found is kept; the host reports it when it next waits for the device.
struct IndexFault {
    u32 op;  // 0: none; else the launcher's number of the op
    u32 at;
    u32 index;
    u32 rows;
};

__device__ __forceinline__ void report(IndexFault* fault, u32 op, u32 at, u32 index, u32 rows) {
    if (atomicCAS(&fault->op, 0u, op) == 0u) fault->at = at, fault->index = index, fault->rows = rows;
}

// ---- shared memory, asynchronous copies, tensor cores ---------------------------------------------------------------

__device__ __forceinline__ u32 shared_address(const void* p) { return u32(__cvta_generic_to_shared(p)); }

// Copies 16 bytes to shared memory past L1; the last 16 - bytes of them become zeros. `from` is on 16 bytes.
__device__ __forceinline__ void cp_async16(u32 to, const void* from, u32 bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most PENDING of this thread's newest groups are in flight.
template <int PENDING> __device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// Four 8x8 matrices of 16-bit elements; lanes 8 i .. 8 i + 8 give the row addresses of matrix i.
__device__ __forceinline__ void ldmatrix(u32 (&r)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

__device__ __forceinline__ void ldmatrix_trans(u32 (&r)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// d += a b for a 16x16 (row-major), b 16x8 (column-major), d 16x8 in f32.
__device__ __forceinline__ void mma_bf16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// 2^x, approximate.
__device__ __forceinline__ float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// The logarithm of x to base 2, approximate.
__device__ __forceinline__ float log2_approx(float x) {
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Copies 8 bytes to shared memory; the last 8 - bytes of them become zeros. `from` is on 8 bytes.
__device__ __forceinline__ void cp_async8(u32 to, const void* from, u32 bytes) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

// ---- documents of a packed batch --------------------------------------------------------------------------------------

struct Range {
    int begin, len;
};

// Rows of a document, or of what follows the last one; inside `rows` whatever the boundaries are.
__device__ __forceinline__ Range document_rows(const u32* bounds, int documents, int document, int rows) {
    const u32 begin = documents > 0 ? min(bounds[document], u32(rows)) : 0u;
    const u32 end = document < documents ? min(max(bounds[document + 1], begin), u32(rows)) : u32(rows);
    return Range{int(begin), int(end - begin)};
}

// The document that holds a row, or their number if none does. For whole warps.
__device__ __forceinline__ int find_document(const u32* bounds, int documents, int row) {
    const int lane = threadIdx.x % 32;
#pragma unroll 1
    for (int first = 0; first < documents; first += 32) {
        const bool ends_later = first + lane < documents && bounds[first + lane + 1] > u32(row);
        if (const u32 later = __ballot_sync(FULL, ends_later)) return first + __ffs(later) - 1;
    }
    return documents;
}

struct DocumentTile {
    int document;
    Range rows;  // of the whole document
    int tile, tiles;
};

// The `index`-th tile of `size` rows when each document, and what follows the last one, is cut into tiles of its own. There
// are at most rows / size + documents + 1 of them. For whole warps; false if there are fewer.
__device__ __forceinline__ bool find_tile(const u32* bounds, int documents, int rows, int size, int index,
                                          DocumentTile& found) {
    const int lane = threadIdx.x % 32;
#pragma unroll 1
    for (int first = 0; first <= documents; first += 32) {
        const int document = first + lane;
        const Range range = document <= documents ? document_rows(bounds, documents, document, rows) : Range{0, 0};
        const int tiles = (range.len + size - 1) / size;
        int end = tiles;
#pragma unroll
        for (int offset = 1; offset < 32; offset *= 2) {
            const int before = __shfl_up_sync(FULL, end, offset);
            if (lane >= offset) end += before;
        }
        if (const u32 later = __ballot_sync(FULL, index < end)) {
            const int owner = __ffs(later) - 1;
            found.document = first + owner;
            found.rows = Range{__shfl_sync(FULL, range.begin, owner), __shfl_sync(FULL, range.len, owner)};
            found.tile = index - __shfl_sync(FULL, end - tiles, owner);
            found.tiles = __shfl_sync(FULL, tiles, owner);
            return true;
        }
        index -= __shfl_sync(FULL, end, 31);
    }
    return false;
}

// ---- bf16 tiles in shared memory, multiplied by tensor cores ------------------------------------------------------------

// ROWS rows of D columns; 16 bytes more per row put the same columns of eight rows into different banks.
template <int ROWS, int D> struct Tile {
    static constexpr int stride = D + 8;
    alignas(16) bf16 at[ROWS * stride];
};

// Rows `first .. first + ROWS` of a [rows, cols] matrix, zeros outside. `wide`: its rows start on 16 bytes, and the copy is
// asynchronous.
template <int THREADS, int ROWS, int D>
__device__ __forceinline__ void load_tile(Tile<ROWS, D>& tile, const bf16* from, i64 ld, int first, int rows, int cols,
                                          bool wide) {
    constexpr int chunks = D / 8, step = THREADS / chunks;
    if (wide) {
        const int row = threadIdx.x / chunks, col = threadIdx.x % chunks * 8;
        const u32 bytes = 2 * min(max(cols - col, 0), 8);
        const u32 to = shared_address(&tile.at[row * tile.stride + col]);
        const bf16* source = from + (first + row) * ld + col;
        const int left = rows - first - row;
        if (row < step) {
#pragma unroll
            for (int i = 0; i < ROWS; i += step)
                if (ROWS % step == 0 || row + i < ROWS)
                    cp_async16(to + i * tile.stride * 2, source + i * ld, i < left ? bytes : 0);
        }
    } else {
#pragma unroll 1
        for (int i = threadIdx.x; i < ROWS * D; i += THREADS) {
            const int row = i / D, col = i % D;
            const bool inside = first + row < rows && col < cols;
            tile.at[row * tile.stride + col] = inside ? from[(first + row) * ld + col] : bf16{0};
        }
    }
}

// Where this lane's part of a 16x16 left operand, or of a transposed right one, starts.
template <int ROWS, int D> __device__ __forceinline__ u32 left_address(const Tile<ROWS, D>& tile, int row) {
    const int lane = threadIdx.x % 32;
    return shared_address(&tile.at[(row + lane % 16) * tile.stride + lane / 16 * 8]);
}

// The same for a right operand that is stored with its columns as rows.
template <int ROWS, int D> __device__ __forceinline__ u32 right_address(const Tile<ROWS, D>& tile) {
    const int lane = threadIdx.x % 32;
    return shared_address(&tile.at[(lane % 8 + lane / 16 * 8) * tile.stride + lane / 8 % 2 * 8]);
}

// 16 M x 8 N accumulators of a warp: element e of [m][n] is row 16 m + 8 (e / 2) + lane / 4, column 8 n + 2 (lane % 4) + e % 2.
template <int M, int N> struct Accumulator {
    float at[M][N][4];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
            for (int n = 0; n < N; ++n)
#pragma unroll
                for (int e = 0; e < 4; ++e) at[m][n][e] = 0.f;
    }
};

// The left operands in 16 M rows of a tile, columns 16 c .. 16 c + 16, read from a left address for every product.
template <int D, int M> struct SharedRows {
    // Not all at once: reads that are moved far ahead of their products take registers.
    static constexpr int unroll = 4;
    u32 address;

    __device__ __forceinline__ void get(u32 (&a)[M][4], int c) const {
#pragma unroll
        for (int m = 0; m < M; ++m) ldmatrix(a[m], address + m * 16 * Tile<1, D>::stride * 2 + c * 32);
    }
};

// The same in registers.
template <int D, int M> struct KeptRows {
    static constexpr int unroll = D / 16;
    u32 at[D / 16][M][4];

    __device__ __forceinline__ void keep(u32 address) {
#pragma unroll
        for (int c = 0; c < D / 16; ++c) SharedRows<D, M>{address}.get(at[c], c);
    }
    __device__ __forceinline__ void get(u32 (&a)[M][4], int c) const {
#pragma unroll
        for (int i = 0; i < 4 * M; ++i) a[i / 4][i % 4] = at[c][i / 4][i % 4];
    }
};

// d = x yᵀ over D columns, for `y` the right address of a tile's 8 N rows.
template <int D, class X, int M, int N>
__device__ __forceinline__ void multiply_rows(Accumulator<M, N>& d, const X& x, u32 y) {
    constexpr int stride = Tile<1, D>::stride * 2;
    d.clear();
#pragma unroll X::unroll
    for (int c = 0; c < D / 16; ++c) {
        u32 a[M][4];
        x.get(a, c);
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            u32 b[4];
            ldmatrix(b, y + n * 8 * stride + c * 32);
#pragma unroll
            for (int m = 0; m < M; ++m)
                mma_bf16(d.at[m][n], a[m], b[0], b[1]), mma_bf16(d.at[m][n + 1], a[m], b[2], b[3]);
        }
    }
}

// d += p y for `p` rounded to bf16 and the 8 N rows of a tile: `y` a left address.
template <int D, int M, int N>
__device__ __forceinline__ void multiply_add(Accumulator<M, D / 8>& d, const Accumulator<M, N>& p, u32 y) {
    constexpr int stride = Tile<1, D>::stride * 2;
#pragma unroll
    for (int c = 0; c < N; c += 2) {
        u32 a[M][4];
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float* pair = &p.at[m][c + i / 2][i % 2 * 2];
                a[m][i] = pack_bf16(pair[0], pair[1]);
            }
#pragma unroll
        for (int n = 0; n < D / 8; n += 2) {
            u32 b[4];
            ldmatrix_trans(b, y + c * 8 * stride + n * 16);
#pragma unroll
            for (int m = 0; m < M; ++m)
                mma_bf16(d.at[m][n], a[m], b[0], b[1]), mma_bf16(d.at[m][n + 1], a[m], b[2], b[3]);
        }
    }
}

// Writes accumulators times factor(m, e / 2) to rows `first + row ..` of a [rows, cols] matrix, by way of rows `row ..` of a
// tile that only this warp uses.
template <int ROWS, int D, int M, class F>
__device__ __forceinline__ void store_rows(const Accumulator<M, D / 8>& d, F factor, Tile<ROWS, D>& tile, int row,
                                           bf16* to, i64 ld, int first, int rows, int cols, bool wide) {
    const int lane = threadIdx.x % 32;
    __syncwarp();
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            bf16* line = &tile.at[(row + m * 16 + half * 8 + lane / 4) * tile.stride + lane % 4 * 2];
            const float scale = factor(m, half);
#pragma unroll
            for (int n = 0; n < D / 8; ++n)
                *reinterpret_cast<u32*>(line + n * 8) =
                    pack_bf16(d.at[m][n][half * 2] * scale, d.at[m][n][half * 2 + 1] * scale);
        }
    __syncwarp();
    constexpr int chunks = D / 8;
#pragma unroll 1
    for (int i = lane; i < M * 16 * chunks; i += 32) {
        const int r = row + i / chunks, col = i % chunks * 8;
        if (first + r >= rows) break;
        const bf16* line = &tile.at[r * tile.stride];
        bf16* target = to + (first + r) * ld;
        if (wide && col + 8 <= cols) {
            *reinterpret_cast<uint4*>(target + col) = *reinterpret_cast<const uint4*>(line + col);
        } else {
#pragma unroll 1
            for (int c = col; c < min(col + 8, cols); ++c) target[c] = line[c];
        }
    }
}
