// Enough of CUDA for one source file to run on the CPU: each thread of a block is a std::thread,
// a barrier waits for all of them, blocks run one after the other. What a kernel must not rely on
// is made visible: shared memory begins as NaN, and what lies behind it is checked.
#pragma once

#include <barrier>
#include <cmath>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

using std::nan;
using std::sqrt;

#define __global__
#define __device__
#define __shared__
#define __launch_bounds__(threads)

struct Dimensions {
    unsigned x = 0, y = 0, z = 0;
};

static thread_local Dimensions threadIdx;
static Dimensions blockIdx, blockDim;
static std::unique_ptr<std::barrier<>> meeting;

static inline void __syncthreads()
{
    meeting->arrive_and_wait();
}

REAL shared[232448 / sizeof(REAL)];  // of a Hopper

// Runs a kernel's body on a grid; false if it wrote behind its shared memory.
static bool launch(unsigned columns, unsigned rows, unsigned threads, std::size_t shared_bytes,
                   const std::function<void()> &body)
{
    const std::size_t used = (shared_bytes + sizeof(REAL) - 1) / sizeof(REAL);
    bool intact = true;
    blockDim.x = threads;
    for (blockIdx.y = 0; blockIdx.y < rows; ++blockIdx.y)
        for (blockIdx.x = 0; blockIdx.x < columns; ++blockIdx.x) {
            for (REAL &number : shared)
                number = std::nan("");
            meeting = std::make_unique<std::barrier<>>(threads);
            std::vector<std::thread> block;
            for (unsigned t = 0; t < threads; ++t)
                block.emplace_back([&body, t] {
                    threadIdx.x = t;
                    body();
                });
            for (std::thread &thread : block)
                thread.join();
            for (std::size_t k = used; k < sizeof(shared) / sizeof(REAL); ++k)
                intact = intact && std::isnan(shared[k]);
        }
    return intact;
}
