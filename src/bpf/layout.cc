// SPDX-License-Identifier: Apache-2.0
#include "bpf/layout.h"

#include <algorithm>
#include <array>
#include <bpf/btf.h>
#include <cstring>
#include <string_view>
#include <unordered_map>

namespace fairlead::bpf {
namespace {

/// Nothing of ours is deeper; broken BTF may be without end.
constexpr int kMaxDepth = 16;

std::string_view name_of(const btf& types, std::uint32_t name) {
  const char* const text = btf__name_by_offset(&types, name);
  return text == nullptr ? std::string_view{} : text;
}

Error cannot_read(const std::string& path, const std::string& what) {
  return {ErrorKind::kUnavailable, (path.empty() ? "it" : "field " + path) + " is " + what};
}

/// Walks a type and notes its numbers.
class Reader {
 public:
  Reader(const btf& types, Layout& out) : types_(types), out_(out) {}

  [[nodiscard]] Status read(std::uint32_t id, const std::string& path, std::uint32_t offset,
                            int depth) {
    bool is_network_order = false;
    const btf_type* type = btf__type_by_id(&types_, id);
    while (type != nullptr && (btf_is_mod(type) || btf_is_typedef(type))) {
      is_network_order |=
          btf_is_typedef(type) && name_of(types_, type->name_off).starts_with("__be");
      type = btf__type_by_id(&types_, type->type);
    }
    if (type == nullptr || depth > kMaxDepth) {
      return fail(cannot_read(path, "of a type that its BTF does not hold"));
    }
    if (btf_is_int(type) || btf_is_any_enum(type)) {
      return read_number(*type, path, offset, is_network_order);
    }
    if (btf_is_array(type)) {
      return read_array(*type, path, offset, depth);
    }
    if (btf_is_struct(type)) {
      return read_struct(*type, path, offset, depth);
    }
    return fail(cannot_read(path, "neither struct nor array nor integer"));
  }

 private:
  [[nodiscard]] Status read_number(const btf_type& type, const std::string& path,
                                   std::uint32_t offset, bool is_network_order) {
    const bool is_signed = btf_is_int(&type) && (btf_int_encoding(&type) & BTF_INT_SIGNED) != 0;
    if (type.size != 1 && type.size != 2 && type.size != 4 && type.size != 8) {
      return fail(cannot_read(path, "an integer of " + std::to_string(type.size) + " bytes"));
    }
    out_.fields.push_back({path, offset, type.size, is_signed, is_network_order});
    return {};
  }

  [[nodiscard]] Status read_array(const btf_type& type, const std::string& path,
                                  std::uint32_t offset, int depth) {
    const struct btf_array& array = *btf_array(&type);
    const auto step = btf__resolve_size(&types_, array.type);
    if (step < 0) {
      return fail(cannot_read(path, "an array of unknown size"));
    }
    for (std::uint32_t i = 0; i < array.nelems; ++i) {
      if (Status status = read(array.type, path + "[" + std::to_string(i) + "]",
                               offset + i * static_cast<std::uint32_t>(step), depth + 1);
          !status) {
        return status;
      }
    }
    return {};
  }

  [[nodiscard]] Status read_struct(const btf_type& type, const std::string& path,
                                   std::uint32_t offset, int depth) {
    const std::span members(btf_members(&type), btf_vlen(&type));
    for (std::uint32_t i = 0; i < members.size(); ++i) {
      std::string inner = path.empty() ? "" : path + ".";
      inner += name_of(types_, members[i].name_off);
      const std::uint32_t bits = btf_member_bit_offset(&type, i);
      if (btf_member_bitfield_size(&type, i) != 0 || bits % 8 != 0) {
        return fail(cannot_read(inner, "a bit field"));
      }
      if (Status status = read(members[i].type, inner, offset + bits / 8, depth + 1); !status) {
        return status;
      }
    }
    return {};
  }

  const btf& types_;
  Layout& out_;
};

}  // namespace

Btf own(btf* types) {
  return {types, [](btf* owned) { btf__free(owned); }};
}

Result<Layout> Layout::of(const btf& types, std::uint32_t type) {
  Layout layout;
  const auto size = btf__resolve_size(&types, type);
  if (size < 0) {
    return fail(cannot_read("", "of a type that its BTF does not hold"));
  }
  layout.size = static_cast<std::uint32_t>(size);
  if (Status status = Reader(types, layout).read(type, "", 0, 0); !status) {
    return fail(std::move(status.error()));
  }
  return layout;
}

Result<Conversion> Conversion::between(const Layout& from, const Layout& to) {
  std::unordered_map<std::string_view, const Field*> known;
  for (const Field& field : from.fields) {
    known.emplace(field.path, &field);
  }
  Conversion conversion;
  for (const Field& field : to.fields) {
    const auto at = known.find(field.path);
    if (at == known.end()) {
      continue;
    }
    const Field& old = *at->second;
    if (old.size != field.size) {
      if (old.is_network_order || field.is_network_order) {
        return fail(ErrorKind::kUnavailable,
                    "field " + field.path + ", in network order, changed its width");
      }
      conversion.resizes_.push_back({old, field});
      continue;
    }
    // Neighbours that were neighbours before go in one piece.
    auto& copies = conversion.copies_;
    if (!copies.empty() && copies.back().from + copies.back().size == old.offset &&
        copies.back().to + copies.back().size == field.offset) {
      copies.back().size += field.size;
    } else {
      copies.push_back({old.offset, field.offset, field.size});
    }
  }
  return conversion;
}

Status Conversion::convert(std::span<const std::byte> from, std::span<std::byte> to) const {
  std::ranges::fill(to, std::byte{0});
  for (const Copy& copy : copies_) {
    std::ranges::copy(from.subspan(copy.from, copy.size), to.subspan(copy.to).begin());
  }
  for (const Resize& resize : resizes_) {
    const std::uint64_t number = read_number(resize.from, from);
    write_number(resize.to, number, to);
    if (read_number(resize.to, to) != number) {
      return fail(ErrorKind::kUnavailable,
                  "field " + resize.to.path + " cannot hold " + std::to_string(number));
    }
  }
  return {};
}

std::uint64_t read_number(const Field& field, std::span<const std::byte> bytes) {
  const auto as = [&]<typename Unsigned, typename Signed>(Unsigned value, Signed /*twin*/) {
    std::memcpy(&value, bytes.subspan(field.offset).data(), sizeof(value));
    return field.is_signed
               ? static_cast<std::uint64_t>(static_cast<std::int64_t>(static_cast<Signed>(value)))
               : std::uint64_t{value};
  };
  switch (field.size) {
    case 1:
      return as(std::uint8_t{}, std::int8_t{});
    case 2:
      return as(std::uint16_t{}, std::int16_t{});
    case 4:
      return as(std::uint32_t{}, std::int32_t{});
    default:
      return as(std::uint64_t{}, std::int64_t{});
  }
}

void write_number(const Field& field, std::uint64_t number, std::span<std::byte> bytes) {
  const auto as = [&](auto value) {
    std::memcpy(bytes.subspan(field.offset).data(), &value, sizeof(value));
  };
  switch (field.size) {
    case 1:
      return as(static_cast<std::uint8_t>(number));
    case 2:
      return as(static_cast<std::uint16_t>(number));
    case 4:
      return as(static_cast<std::uint32_t>(number));
    default:
      return as(number);
  }
}

}  // namespace fairlead::bpf
