// SPDX-License-Identifier: Apache-2.0
// What a struct of a map looks like, as its BTF tells, and how bytes of one layout become those of
// another: field by field, by name. So maps that another version of us has made can be taken over
// without a copy of that version's structs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

struct btf;

namespace fairlead::bpf {

/// BTF, freed with its last user.
using Btf = std::shared_ptr<const btf>;
/// Takes ownership of what libbpf has given out.
[[nodiscard]] Btf own(btf* types);

/// A number in a struct, however deep.
struct Field {
  std::string path;  // "addr.words[2]"; empty if the whole is one number
  std::uint32_t offset = 0;
  std::uint32_t size = 0;  // 1, 2, 4 or 8
  bool is_signed = false;
  bool is_network_order = false;  // a __be type
  friend bool operator==(const Field&, const Field&) = default;
};

/// In the order of the struct.
struct Layout {
  std::uint32_t size = 0;
  std::vector<Field> fields;
  friend bool operator==(const Layout&, const Layout&) = default;

  /// Structs, arrays and integers; anything else (unions, bit fields, pointers) is an error that
  /// names the field.
  [[nodiscard]] static Result<Layout> of(const btf& types, std::uint32_t type);
};

/// From one layout to another. A field that only the old one has is dropped, one that only the new
/// one has is 0. Integers may change their width.
class Conversion {
 public:
  /// Cannot be: a number in network order that changed its width.
  [[nodiscard]] static Result<Conversion> between(const Layout& from, const Layout& to);

  /// `from` and `to` are of the two sizes. A value that the new field cannot hold is an error that
  /// names the field.
  [[nodiscard]] Status convert(std::span<const std::byte> from, std::span<std::byte> to) const;

 private:
  /// Bytes as they are.
  struct Copy {
    std::uint32_t from, to, size;
  };
  struct Resize {
    Field from, to;
  };
  std::vector<Copy> copies_;
  std::vector<Resize> resizes_;
};

/// The number at a field, its sign extended, and back: what does not fit is cut off.
[[nodiscard]] std::uint64_t read_number(const Field& field, std::span<const std::byte> bytes);
void write_number(const Field& field, std::uint64_t number, std::span<std::byte> bytes);

}  // namespace fairlead::bpf
