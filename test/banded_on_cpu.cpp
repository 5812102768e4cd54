// dnls_ros/linear/banded.cu for the CPU: what CuPy calls on a device, ctypes calls here.
// With -DRACES a program of its own, for ThreadSanitizer.
#include "cuda_on_cpu.h"

#include "banded.cu"

extern "C" bool run_factorize(unsigned matrices, unsigned threads, std::size_t shared_bytes,
                              Int count, Int band, Int border, REAL *storage, bool *ok,
                              REAL *workspace)
{
    return launch(matrices, 1, threads, shared_bytes,
                  [=] { factorize(count, band, border, storage, ok, workspace); });
}

extern "C" bool run_solve(unsigned matrices, unsigned chunks, unsigned threads, Int count,
                          Int band, Int border, Int columns, Int chunk, const REAL *storage,
                          const bool *ok, REAL *x)
{
    return launch(matrices, chunks, threads, 0,
                  [=] { solve(count, band, border, columns, chunk, storage, ok, x); });
}

#ifdef RACES
int main()
{
    const Int count = 5, band = 2, border = 4, columns = 3;
    const Int size = (band + 1) * BLOCK + border;
    std::vector<REAL> storage(count * size * BLOCK + border * border, REAL(0.1));
    for (Int j = 0; j < count; ++j)
        for (Int c = 0; c < BLOCK; ++c) {
            for (Int row = BLOCK * (count - j); row < (band + 1) * BLOCK; ++row)
                storage[(j * size + row) * BLOCK + c] = 0;
            storage[(j * size + c) * BLOCK + c] = 10;
        }
    for (Int m = 0; m < border; ++m)
        storage[count * size * BLOCK + m * (border + 1)] = 10;
    std::vector<REAL> x((count * BLOCK + border) * columns, REAL(1)), front(size * size);
    std::vector<REAL> again = storage;
    bool ok[2] = {false, false};
    const std::size_t bytes = (size * BLOCK + size * size) * sizeof(REAL);
    bool intact = run_factorize(1, 8, bytes, count, band, border, storage.data(), ok, nullptr);
    intact = run_factorize(1, 8, size * BLOCK * sizeof(REAL), count, band, border, again.data(),
                           ok + 1, front.data()) && intact;
    intact = run_solve(1, 2, 8, count, band, border, columns, 2, storage.data(), ok, x.data())
        && intact;
    return intact && ok[0] && ok[1] && storage == again ? 0 : 1;
}
#endif
