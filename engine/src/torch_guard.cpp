// SPDX-License-Identifier: LGPL-2.1-or-later
#include "torch_guard.h"

#include "ops/device.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <new>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace flashvsr {

void use_processors([[maybe_unused]] int64_t count) {
    // What the environment allows (OMP_NUM_THREADS), asked for first: asking sets it for this thread.
    [[maybe_unused]] const int64_t allowed = at::get_num_threads();
#ifdef _OPENMP
    omp_set_num_threads(static_cast<int>(std::clamp<int64_t>(count, 1, allowed)));
#endif
}

Error current_error() {
    try {
        throw;
    } catch (const Error &error) {
        return error;
    } catch (const std::bad_alloc &) {
        return {ENOMEM, "out of memory"};
    } catch (const c10::Error &error) {
        // The first line of the message; what follows is a back-trace.
        std::string sentence = error.what_without_backtrace();
        sentence = sentence.substr(0, sentence.find('\n'));
        // Of allocations that fail on the CPU, in CUDA itself or in its libraries none is a
        // c10::OutOfMemoryError.
        const auto says = [&](const char *words) { return sentence.find(words) != std::string::npos; };
        if (dynamic_cast<const c10::OutOfMemoryError *>(&error) != nullptr || says("can't allocate memory") ||
            says("CUDA error: out of memory") || says("STATUS_ALLOC_FAILED"))
            return {ENOMEM, sentence};
        // Libraries on top of CUDA do not all say what it was.
        const std::string cause = says("CUDA error") ? "" : gpu_failure();
        return {EIO, cause.empty() ? sentence : "CUDA error: " + cause + " (" + sentence + ")"};
    } catch (const std::exception &error) {
        return {EIO, error.what()};
    } catch (...) {
        return {EIO, "an unknown failure"};
    }
}

} // namespace flashvsr
