// SPDX-License-Identifier: LGPL-2.1-or-later

// Writes a model directory with random weights, for tests and measurements that need a model of a size
// rather than a good one.

#include "error.h"
#include "weights/random_weights.h"

#include <array>
#include <charconv>
#include <cstdio>
#include <exception>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>

#include <getopt.h>

namespace {

using namespace flashvsr;

constexpr int exit_failed = 1, exit_bad_arguments = 2;

constexpr const char *usage =
    R"(usage: flashvsr_random_model DIR [options]

Writes a model directory with random weights to DIR.

  --size official|mini     sizes to start from (default mini)
  --dtype f32|bf16|f16     type of the stored tensors (default f32)
  --seed N                 (default 0)
  --version 1|1.1          release that config.json names (default 1.1)
  --name NAME              name that config.json gives

Sizes that differ from the ones started from:
  --dim N                  width of the transformer, a multiple of 128
  --ffn-dim N
  --blocks N
  --text-dim N             width of the prompt's tokens
  --text-length N          number of the prompt's tokens
  --freq-dim N             width of the time embedding, even
  --lq-hidden1 N           channels of the LQ projector
  --lq-hidden2 N
  --lq-layers N            linear layers of the LQ projector
  --decoder C0,C1,C2,C3    channels of the decoder
  --no-optional            leave out the decoder's optional layers 3 and 24

  --help                   this text
)";

/// All of text as a number; refuses anything else and names the option.
template <typename T> T number(const char *option, std::string_view text) {
    T value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size())
        fail(EINVAL, "--", option, " is \"", text, "\", not a whole number in range");
    return value;
}

std::array<int64_t, 4> channels(const char *option, std::string_view text) {
    std::array<int64_t, 4> values{};
    std::string_view rest = text;
    for (size_t i = 0; i < values.size(); i++) {
        const size_t comma = rest.find(',');
        if ((comma == std::string_view::npos) != (i + 1 == values.size()))
            fail(EINVAL, "--", option, " is \"", text, "\", not four numbers with commas between them");
        values[i] = number<int64_t>(option, rest.substr(0, comma));
        rest = comma == std::string_view::npos ? "" : rest.substr(comma + 1);
    }
    return values;
}

struct Arguments {
    std::string directory;
    NetworkShape shape = miniature_shape();
    at::ScalarType dtype = at::kFloat;
    uint64_t seed = 0;
    Version version = Version::v1_1;
    std::optional<std::string> name;
};

/// Nothing where help was asked for.
std::optional<Arguments> parse(int argc, char **argv) {
    enum Option {
        size_option = 256,
        dtype_option,
        seed_option,
        version_option,
        name_option,
        decoder_option,
        no_optional_option,
        help_option,
        first_dimension
    };
    static constexpr int64_t NetworkShape::*dimensions[] = {
        &NetworkShape::dim,        &NetworkShape::ffn_dim,     &NetworkShape::blocks,
        &NetworkShape::text_dim,   &NetworkShape::text_length, &NetworkShape::freq_dim,
        &NetworkShape::lq_hidden1, &NetworkShape::lq_hidden2,  &NetworkShape::lq_layers};
    static const option options[] = {{"size", required_argument, nullptr, size_option},
                                     {"dtype", required_argument, nullptr, dtype_option},
                                     {"seed", required_argument, nullptr, seed_option},
                                     {"version", required_argument, nullptr, version_option},
                                     {"name", required_argument, nullptr, name_option},
                                     {"decoder", required_argument, nullptr, decoder_option},
                                     {"no-optional", no_argument, nullptr, no_optional_option},
                                     {"help", no_argument, nullptr, help_option},
                                     {"dim", required_argument, nullptr, first_dimension},
                                     {"ffn-dim", required_argument, nullptr, first_dimension + 1},
                                     {"blocks", required_argument, nullptr, first_dimension + 2},
                                     {"text-dim", required_argument, nullptr, first_dimension + 3},
                                     {"text-length", required_argument, nullptr, first_dimension + 4},
                                     {"freq-dim", required_argument, nullptr, first_dimension + 5},
                                     {"lq-hidden1", required_argument, nullptr, first_dimension + 6},
                                     {"lq-hidden2", required_argument, nullptr, first_dimension + 7},
                                     {"lq-layers", required_argument, nullptr, first_dimension + 8},
                                     {nullptr, 0, nullptr, 0}};

    Arguments arguments;
    NetworkShape changes; // 0 where not given
    bool optional_layers = true;
    opterr = 0;
    int index = 0;
    for (int found; (found = getopt_long(argc, argv, ":", options, &index)) != -1;) {
        const std::string_view value = optarg ? optarg : "";
        switch (found) {
        case size_option:
            if (value != "official" && value != "mini")
                fail(EINVAL, "--size is \"", value, "\"; official and mini are known");
            arguments.shape = value == "official" ? official_shape() : miniature_shape();
            break;
        case dtype_option:
            if (value != "f32" && value != "bf16" && value != "f16")
                fail(EINVAL, "--dtype is \"", value, "\"; f32, bf16 and f16 are known");
            arguments.dtype = value == "f32" ? at::kFloat : value == "f16" ? at::kHalf : at::kBFloat16;
            break;
        case seed_option:
            arguments.seed = number<uint64_t>("seed", value);
            break;
        case version_option:
            if (value != version_name(Version::v1) && value != version_name(Version::v1_1))
                fail(EINVAL, "--version is \"", value, "\"; 1 and 1.1 are known");
            arguments.version = value == version_name(Version::v1) ? Version::v1 : Version::v1_1;
            break;
        case name_option:
            arguments.name = value;
            break;
        case decoder_option:
            changes.decoder_channels = channels("decoder", value);
            break;
        case no_optional_option:
            optional_layers = false;
            break;
        case help_option:
            return std::nullopt;
        case ':':
            fail(EINVAL, argv[optind - 1], " needs a value");
        case '?':
            fail(EINVAL, "unknown option ", argv[optind - 1]);
        default: {
            const auto value_given = number<int64_t>(options[index].name, value);
            if (value_given < 1)
                fail(EINVAL, "--", options[index].name, " is ", value_given, ", expected 1 or more");
            changes.*dimensions[found - first_dimension] = value_given;
        }
        }
    }
    if (optind + 1 != argc)
        fail(EINVAL,
             optind == argc ? "the directory to write is missing" : "more than one directory is given");
    arguments.directory = argv[optind];

    for (const auto dimension : dimensions)
        if (changes.*dimension)
            arguments.shape.*dimension = changes.*dimension;
    if (changes.decoder_channels != NetworkShape().decoder_channels)
        arguments.shape.decoder_channels = changes.decoder_channels;
    arguments.shape.has_decoder_3 = arguments.shape.has_decoder_24 = optional_layers;
    return arguments;
}

} // namespace

int main(int argc, char **argv) {
    try {
        const std::optional<Arguments> arguments = parse(argc, argv);
        if (!arguments) {
            std::fputs(usage, stdout);
            return 0;
        }
        ModelWeights weights = random_weights(arguments->shape, arguments->dtype, arguments->seed);
        weights.version = arguments->version;
        if (arguments->name)
            weights.name = *arguments->name;
        save_model_directory(arguments->directory, weights);
        return 0;
    } catch (const Error &error) {
        std::fprintf(stderr, "flashvsr_random_model: %s\n", error.what());
        return error.code() == EINVAL ? exit_bad_arguments : exit_failed;
    } catch (const std::exception &error) {
        std::fprintf(stderr, "flashvsr_random_model: %s\n", error.what());
        return exit_failed;
    }
}
