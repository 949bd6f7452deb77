// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

namespace flashvsr {

/// A weight release. They differ in the temporal cache of the LQ projector only, and not in the names
/// and shapes of their tensors.
enum class Version { v1, v1_1 };

/// "1" or "1.1", as in config.json and in the options.
inline const char *version_name(Version version) {
    return version == Version::v1 ? "1" : "1.1";
}

} // namespace flashvsr
