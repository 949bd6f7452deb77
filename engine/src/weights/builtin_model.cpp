// SPDX-License-Identifier: LGPL-2.1-or-later
#include "weights/builtin_model.h"

#include "error.h"
#include "weights/model_directory.h"

#include <cerrno>
#include <cstdlib>
#include <string>
#include <system_error>
#include <vector>

#include <dlfcn.h>

#if !defined(FLASHVSR_DEFAULT_MODEL) || !defined(FLASHVSR_INSTALLED_MODELS) ||                               \
    !defined(FLASHVSR_SOURCE_MODELS)
#error "the build defines the default model's name and where models are"
#endif

namespace flashvsr {

namespace fs = std::filesystem;

namespace {

bool is_model(const fs::path &directory) {
    std::error_code error;
    return fs::exists(directory / dit_file_name, error);
}

} // namespace

fs::path builtin_model_directory() {
    std::vector<fs::path> places;
    const char *given = std::getenv("FLASHVSR_MODEL_DIR");
    if (given && *given) {
        places = {given, fs::path(given) / FLASHVSR_DEFAULT_MODEL};
    } else {
        Dl_info library;
        std::error_code error;
        if (dladdr(reinterpret_cast<const void *>(&builtin_model_directory), &library) && library.dli_fname) {
            const fs::path folder = fs::canonical(library.dli_fname, error).parent_path();
            // lib/ and, on Debian, lib/<architecture>/
            if (!error)
                for (const fs::path &prefix : {folder.parent_path(), folder.parent_path().parent_path()})
                    places.push_back(prefix / "share/flashvsr/models" / FLASHVSR_DEFAULT_MODEL);
        }
        places.push_back(fs::path(FLASHVSR_INSTALLED_MODELS) / FLASHVSR_DEFAULT_MODEL);
        places.push_back(fs::path(FLASHVSR_SOURCE_MODELS) / FLASHVSR_DEFAULT_MODEL);
    }
    std::string looked;
    for (const fs::path &place : places) {
        if (is_model(place))
            return place;
        looked += (looked.empty() ? "" : ", ") + place.string();
    }
    fail(ENOENT, "the built-in model was not found",
         given && *given ? " where the environment variable FLASHVSR_MODEL_DIR says" : "", "; looked for ",
         dit_file_name, " in ", looked);
}

} // namespace flashvsr
