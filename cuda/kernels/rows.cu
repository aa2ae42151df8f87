// gather_rows: y[i] = table[index[i]], zeros for NO_ROW; scatter_rows: y[index[i]] = x[i], indices distinct.
//
// Launch: 256 threads a block, each with 16 bytes of row i.
// Bytes per element of row i: reads one, writes one.
// budget: registers 24, blocks 8
#include "device.cuh"

template <class T>
__device__ void gather(const T* table, i64 ld, u32 table_rows, const u32* index, T* y, i64 ldy, u32 rows, int cols,
                       IndexFault* fault, u32 op) {
    const Place at = place<Pack<T>::n>(rows, cols);
    if (at.count == 0) return;
    const u32 row = index[at.row];
    Pack<T> pack = {};
    if (row < table_rows) {
        const T* from = table + row * ld + at.col;
        pack = load_pack(from, 0, at.count, aligned16(from, 0));
    } else if (row != NO_ROW) {
        report(fault, op, at.row, row, table_rows);
    }
    y += at.row * ldy + at.col;
    store_pack(y, 0, at.count, aligned16(y, 0), pack);
}

template <class T>
__device__ void scatter(const T* x, i64 ldx, u32 rows, const u32* index, T* y, i64 ldy, u32 y_rows, int cols,
                        IndexFault* fault, u32 op) {
    const Place at = place<Pack<T>::n>(rows, cols);
    if (at.count == 0) return;
    const u32 row = index[at.row];
    if (row >= y_rows) {
        report(fault, op, at.row, row, y_rows);
        return;
    }
    x += at.row * ldx + at.col, y += row * ldy + at.col;
    store_pack(y, 0, at.count, aligned16(y, 0), load_pack(x, 0, at.count, aligned16(x, 0)));
}

#define INSTANCE(T)                                                                                                  \
    KERNEL(256, 8)                                                                                                   \
    gather_rows_##T(const T* table, i64 ld, u32 table_rows, const u32* index, T* y, i64 ldy, u32 rows, int cols,     \
                    IndexFault* fault, u32 op) {                                                                     \
        gather(table, ld, table_rows, index, y, ldy, rows, cols, fault, op);                                         \
    }                                                                                                                \
    KERNEL(256, 8)                                                                                                   \
    scatter_rows_##T(const T* x, i64 ldx, u32 rows, const u32* index, T* y, i64 ldy, u32 y_rows, int cols,           \
                     IndexFault* fault, u32 op) {                                                                    \
        scatter(x, ldx, rows, index, y, ldy, y_rows, cols, fault, op);                                               \
    }
INSTANCE(f32)
INSTANCE(bf16)
