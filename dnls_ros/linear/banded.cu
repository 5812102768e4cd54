// Cholesky of matrices with a band and a border, one matrix per block of threads.
//
// A matrix has `count` block columns of BLOCK unknowns, each coupled to the `band` columns after it,
// and `border` unknowns coupled to all. It is stored by rows: for every block column a panel of
// (band + 1) · BLOCK rows from its diagonal downwards and the `border` rows, BLOCK numbers each;
// then the border's own square. What lies above the diagonal is never read, what lies below the
// band's end is zero. L takes the place of the matrix.
//
// A front slides down the band: the square of all unknowns that the column in hand is coupled to.
// It holds what earlier columns take away from them, the band's part as a ring of band + 1 blocks,
// so that nothing is moved when it slides. A column takes its entry out of the front, is finished
// and takes its outer product away; two barriers each. Every number is computed by one thread in
// one order: the bits do not depend on how many threads there are. Nothing is left early, so that
// all threads meet at all barriers, and every loop is bounded, whatever the numbers are.
//
// Compiled with -DREAL=float or double and -DBLOCK=1 … 9, by NVRTC, nvcc, or a C++ compiler that is
// told what a thread is.

#ifndef REAL
#define REAL double
#endif
#ifndef BLOCK
#define BLOCK 6
#endif

typedef long long Int;

extern __shared__ REAL shared[];

// The e-th of the pairs q ≤ p < n: rows i and n − 1 − i side by side fill a rectangle. False for a
// pair that comes twice, which the row in the middle has.
static __device__ inline bool pair(int e, int n, int *p, int *q)
{
    const int i = e / (n + 1), k = e % (n + 1), long_row = n - 1 - i;
    const bool in_long = k <= long_row;
    *p = in_long ? long_row : i;
    *q = in_long ? k : k - (long_row + 1);
    return in_long || long_row != i;
}

static __device__ inline int pairs(int n)
{
    return (n + 1) / 2 * (n + 1);
}

static __device__ inline bool usable(REAL pivot)
{
    return pivot > 0 && pivot - pivot == 0;
}

// L of the column's diagonal block, by every thread for itself; whether its pivots are usable.
static __device__ inline bool factor_pivot(const REAL *column, const REAL *front, int size, int at,
                                           REAL pivot[BLOCK][BLOCK])
{
    bool good = true;
#pragma unroll
    for (int c = 0; c < BLOCK; ++c) {
#pragma unroll
        for (int r = c; r < BLOCK; ++r) {
            REAL value = column[r * BLOCK + c] + front[(at + r) * size + at + c];
#pragma unroll
            for (int d = 0; d < c; ++d)
                value -= pivot[r][d] * pivot[c][d];
            if (r == c) {
                good = good && usable(value);
                pivot[c][c] = sqrt(value);
            } else {
                pivot[r][c] = value / pivot[c][c];
            }
        }
    }
    return good;
}

// One row of L below the diagonal block: into the matrix, and into `panel` for the update. Its
// place in the front is cleared for the block that will come there.
static __device__ inline void finish_row(REAL *row, REAL *waiting, REAL *panel,
                                         const REAL pivot[BLOCK][BLOCK])
{
    REAL x[BLOCK];
#pragma unroll
    for (int c = 0; c < BLOCK; ++c) {
        REAL value = row[c] + waiting[c];
#pragma unroll
        for (int d = 0; d < c; ++d)
            value -= x[d] * pivot[c][d];
        x[c] = value / pivot[c][c];
        row[c] = panel[c] = x[c];
        waiting[c] = 0;
    }
}

// Where a row of a panel lies in the front whose ring begins at block `first`.
static __device__ inline int in_front(int row, int first, int ring)
{
    if (row >= ring)
        return row;
    const int at = row + first * BLOCK;
    return at < ring ? at : at - ring;
}

// Takes the outer product of the finished rows away from the front.
static __device__ inline void update(REAL *front, const REAL *panel, int size, int first, int ring)
{
    const int n = size - BLOCK;
    for (int e = threadIdx.x; e < pairs(n); e += blockDim.x) {
        int p, q;
        if (!pair(e, n, &p, &q))
            continue;
        p += BLOCK;
        q += BLOCK;
        REAL sum = 0;
#pragma unroll
        for (int c = 0; c < BLOCK; ++c)
            sum += panel[p * BLOCK + c] * panel[q * BLOCK + c];
        front[in_front(p, first, ring) * size + in_front(q, first, ring)] -= sum;
    }
}

// The border's own square, column by column, where the front holds it; then out of it.
static __device__ inline bool factor_corner(REAL *corner, REAL *front, int size, int border)
{
    REAL *square = front + (size - border) * (size + 1);
    bool good = true;
    for (int e = threadIdx.x; e < border * border; e += blockDim.x)
        square[e / border * size + e % border] += corner[e];
    __syncthreads();
    for (int c = 0; c < border; ++c) {
        REAL *below = square + (c + 1) * size;
        const REAL value = square[c * size + c], root = sqrt(value);
        good = good && usable(value);
        const int n = border - c - 1;
        for (int r = threadIdx.x; r < n; r += blockDim.x)
            below[r * size + c] /= root;
        __syncthreads();
        if (threadIdx.x == 0)
            square[c * size + c] = root;
        for (int e = threadIdx.x; e < pairs(n); e += blockDim.x) {
            int p, q;
            if (pair(e, n, &p, &q))
                below[p * size + c + 1 + q] -= below[p * size + c] * below[q * size + c];
        }
        __syncthreads();
    }
    for (int e = threadIdx.x; e < border * border; e += blockDim.x)
        corner[e] = square[e / border * size + e % border];
    return good;
}

// Factorizes the matrix of each block of threads in place.
//
// storage: of all matrices; ok: whether all pivots are positive and finite; workspace: a front per
// matrix, or null if it follows the panel in shared memory (size · BLOCK, then size · size).
extern "C" __global__ void __launch_bounds__(256)
factorize(Int count, Int band, Int border, REAL *storage, bool *ok, REAL *workspace)
{
    const int ring = (int)(band + 1) * BLOCK, size = ring + (int)border;
    const Int panel_size = (Int)size * BLOCK;
    REAL *matrix = storage + blockIdx.x * (count * panel_size + border * border);
    REAL *panel = shared;
    REAL *front = workspace ? workspace + (Int)blockIdx.x * size * size : shared + panel_size;
    for (int e = threadIdx.x; e < size * size; e += blockDim.x)
        front[e] = 0;
    __syncthreads();
    bool good = true;
    int first = 0;
    for (Int j = 0; j < count; ++j) {
        REAL *column = matrix + j * panel_size;
        REAL pivot[BLOCK][BLOCK];
        const int at = first * BLOCK;
        good = factor_pivot(column, front, size, at, pivot) && good;
        for (int row = BLOCK + threadIdx.x; row < size; row += blockDim.x)
            finish_row(column + row * BLOCK, front + in_front(row, first, ring) * size + at,
                       panel + row * BLOCK, pivot);
        __syncthreads();
        if (threadIdx.x == 0) {
#pragma unroll
            for (int r = 0; r < BLOCK; ++r) {
#pragma unroll
                for (int c = 0; c <= r; ++c) {
                    column[r * BLOCK + c] = pivot[r][c];
                    front[(at + r) * size + at + c] = 0;
                }
            }
        }
        update(front, panel, size, first, ring);
        __syncthreads();
        first = first == band ? 0 : first + 1;
    }
    good = factor_corner(matrix + count * panel_size, front, size, (int)border) && good;
    if (threadIdx.x == 0)
        ok[blockIdx.x] = good;
}

// What the two passes of a solution share: where L and its right-hand sides are.
struct System {
    const REAL *matrix;
    REAL *x;          // (count · BLOCK + border, stride), from the first column that is ours
    Int stride;       // right-hand sides of the matrix
    int width;        // those of this block of threads
    Int count;
    int ring, border;
};

static __device__ inline const REAL *column_of(const System &s, Int j)
{
    return s.matrix + j * (s.ring + s.border) * BLOCK;
}

// Row of the solution that a row of panel j is about.
static __device__ inline Int row_of(const System &s, Int j, int row)
{
    return row < s.ring ? j * BLOCK + row : s.count * BLOCK + row - s.ring;
}

static __device__ inline bool exists(const System &s, Int j, int row)
{
    return row >= s.ring || j * BLOCK + row < s.count * BLOCK;
}

static __device__ inline void forward(const System &s)
{
    for (Int j = 0; j < s.count; ++j) {
        const REAL *column = column_of(s, j);
        REAL *y = s.x + j * BLOCK * s.stride;
        for (int t = threadIdx.x; t < s.width; t += blockDim.x) {
            REAL found[BLOCK];
#pragma unroll
            for (int c = 0; c < BLOCK; ++c) {
                REAL value = y[c * s.stride + t];
#pragma unroll
                for (int d = 0; d < c; ++d)
                    value -= column[c * BLOCK + d] * found[d];
                y[c * s.stride + t] = found[c] = value / column[c * BLOCK + c];
            }
        }
        __syncthreads();
        for (int e = threadIdx.x; e < (s.ring + s.border - BLOCK) * s.width; e += blockDim.x) {
            const int row = BLOCK + e / s.width, t = e % s.width;
            if (!exists(s, j, row))
                continue;
            REAL sum = 0;
#pragma unroll
            for (int c = 0; c < BLOCK; ++c)
                sum += column[row * BLOCK + c] * y[c * s.stride + t];
            s.x[row_of(s, j, row) * s.stride + t] -= sum;
        }
        __syncthreads();
    }
}

// Both passes over the border's own square.
static __device__ inline void solve_corner(const System &s)
{
    const REAL *corner = column_of(s, s.count);
    REAL *y = s.x + s.count * BLOCK * s.stride;
    for (int step = 0; step < 2 * s.border; ++step) {
        const bool down = step < s.border;
        const int c = down ? step : 2 * s.border - 1 - step;
        for (int t = threadIdx.x; t < s.width; t += blockDim.x)
            y[c * s.stride + t] /= corner[c * s.border + c];
        __syncthreads();
        const int rest = down ? s.border - c - 1 : c, after = down ? c + 1 : 0;
        for (int e = threadIdx.x; e < rest * s.width; e += blockDim.x) {
            const int r = after + e / s.width, t = e % s.width;
            const REAL factor = corner[down ? r * s.border + c : c * s.border + r];
            y[r * s.stride + t] -= factor * y[c * s.stride + t];
        }
        __syncthreads();
    }
}

static __device__ inline void backward(const System &s)
{
    for (Int j = s.count - 1; j >= 0; --j) {
        const REAL *column = column_of(s, j);
        REAL *y = s.x + j * BLOCK * s.stride;
        for (int e = threadIdx.x; e < BLOCK * s.width; e += blockDim.x) {
            const int c = e / s.width, t = e % s.width;
            REAL sum = 0;
            for (int row = BLOCK; row < s.ring + s.border; ++row)
                if (exists(s, j, row))
                    sum += column[row * BLOCK + c] * s.x[row_of(s, j, row) * s.stride + t];
            y[c * s.stride + t] -= sum;
        }
        __syncthreads();
        for (int t = threadIdx.x; t < s.width; t += blockDim.x) {
            REAL found[BLOCK];
#pragma unroll
            for (int c = BLOCK - 1; c >= 0; --c) {
                REAL value = y[c * s.stride + t];
#pragma unroll
                for (int d = c + 1; d < BLOCK; ++d)
                    value -= column[d * BLOCK + c] * found[d];
                y[c * s.stride + t] = found[c] = value / column[c * BLOCK + c];
            }
        }
        __syncthreads();
    }
}

// Solves for right-hand sides x (matrices, count · BLOCK + border, columns) in place, by the L of
// `factorize`. blockIdx.y takes `chunk` of the columns. Where ok is false all numbers become NaN.
extern "C" __global__ void __launch_bounds__(256)
solve(Int count, Int band, Int border, Int columns, Int chunk, const REAL *storage, const bool *ok,
      REAL *x)
{
    const Int rows = count * BLOCK + border, before = blockIdx.y * chunk;
    const Int left = columns - before;
    System s;
    s.ring = (int)(band + 1) * BLOCK;
    s.border = (int)border;
    s.count = count;
    s.stride = columns;
    s.width = (int)(left < chunk ? left : chunk);
    s.matrix = storage + blockIdx.x * (count * (s.ring + border) * BLOCK + border * border);
    s.x = x + blockIdx.x * rows * columns + before;
    if (!ok[blockIdx.x]) {
        const REAL nothing = (REAL)nan("");
        for (Int e = threadIdx.x; e < rows * s.width; e += blockDim.x)
            s.x[e / s.width * columns + e % s.width] = nothing;
        return;
    }
    forward(s);
    solve_corner(s);
    backward(s);
}
