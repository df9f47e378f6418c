// SPDX-License-Identifier: Apache-2.0
#include "bpf/layout.h"

#include <array>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <cstring>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <initializer_list>
#include <map>
#include <string>

#include "bpf/abi.h"

namespace fairlead::bpf {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// BTF in the making. Types are numbers of it.
class Types {
 public:
  int integer(std::uint32_t size, bool is_signed = false) {
    return btf__add_int(types_, ("int" + std::to_string(size) + (is_signed ? "s" : "u")).c_str(),
                        size, is_signed ? BTF_INT_SIGNED : 0);
  }
  int named(const char* name, int type) { return btf__add_typedef(types_, name, type); }
  int array(int of, std::uint32_t count) { return btf__add_array(types_, integer(4), of, count); }
  struct Member {
    const char* name;
    int type;
    std::uint32_t offset;  // bytes
    std::uint32_t bits = 0;
  };
  int structure(std::uint32_t size, std::initializer_list<Member> members) {
    const int id = btf__add_struct(types_, "s", size);
    for (const Member& member : members) {
      EXPECT_EQ(btf__add_field(types_, member.name, member.type, member.offset * 8, member.bits),
                0);
    }
    return id;
  }
  int pointer() { return btf__add_ptr(types_, integer(4)); }

  [[nodiscard]] Result<Layout> layout(int type) const {
    return Layout::of(*owned_, static_cast<std::uint32_t>(type));
  }

 private:
  btf* types_ = btf__new_empty();
  Btf owned_ = own(types_);
};

std::vector<std::string> paths(const Layout& layout) {
  std::vector<std::string> out;
  for (const Field& field : layout.fields) {
    out.push_back(field.path + "@" + std::to_string(field.offset));
  }
  return out;
}

/// Bytes of numbers of one width.
template <typename... Numbers>
std::vector<std::byte> bytes(Numbers... numbers) {
  std::vector<std::byte> out;
  const auto add = [&](auto number) {
    const auto raw = std::as_bytes(std::span(&number, 1));
    out.insert(out.end(), raw.begin(), raw.end());
  };
  (add(numbers), ...);
  return out;
}

Result<std::vector<std::byte>> convert(const Layout& from, const Layout& to,
                                       const std::vector<std::byte>& value) {
  const Result<Conversion> conversion = Conversion::between(from, to);
  if (!conversion) {
    return fail(conversion.error());
  }
  std::vector<std::byte> out(to.size, std::byte{0xaa});
  Status status = conversion->convert(value, out);
  return status ? Result<std::vector<std::byte>>(std::move(out)) : fail(status.error());
}

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;

TEST(Layout, NumbersOfStructsAndArraysByPath) {
  Types types;
  const int words = types.structure(8, {{"words", types.array(types.integer(4), 2), 0}});
  const int port = types.named("__be16", types.integer(2));
  const auto layout = types.layout(types.structure(
      20,
      {{"addrs", types.array(words, 2), 0}, {"port", port, 16}, {"kind", types.integer(1), 18}}));
  ASSERT_TRUE(layout) << layout.error().text();
  EXPECT_EQ(layout->size, 20U);
  EXPECT_THAT(paths(*layout),
              ElementsAre("addrs[0].words[0]@0", "addrs[0].words[1]@4", "addrs[1].words[0]@8",
                          "addrs[1].words[1]@12", "port@16", "kind@18"));
  EXPECT_TRUE(layout->fields[4].is_network_order);
  EXPECT_FALSE(layout->fields[5].is_network_order);
}

TEST(Layout, OneNumberIsALayoutToo) {
  Types types;
  const auto layout = types.layout(types.named("__u64", types.integer(8)));
  ASSERT_TRUE(layout);
  EXPECT_THAT(paths(*layout), ElementsAre("@0"));
}

TEST(Layout, TheSameOfOtherBtfIsEqual) {
  Types one;
  Types other;
  (void)other.integer(8);
  const int type = one.structure(4, {{"a", one.integer(4), 0}});
  EXPECT_EQ(*one.layout(type), *other.layout(other.structure(4, {{"a", other.integer(4), 0}})));
  EXPECT_NE(*one.layout(type), *other.layout(other.structure(4, {{"b", other.integer(4), 0}})));
  EXPECT_NE(*one.layout(type), *other.layout(other.structure(4, {{"a", other.integer(2), 0}})));
}

TEST(Layout, WhatItCannotReadIsNamed) {
  Types types;
  const int inner = types.structure(8, {{"pointer", types.pointer(), 0}});
  const auto layout = types.layout(types.structure(8, {{"inner", inner, 0}}));
  ASSERT_FALSE(layout);
  EXPECT_THAT(layout.error().text(), HasSubstr("inner.pointer"));
  const auto bits = types.layout(types.structure(4, {{"flag", types.integer(4), 0, 1}}));
  ASSERT_FALSE(bits);
  EXPECT_THAT(bits.error().text(), HasSubstr("flag is a bit field"));
  EXPECT_FALSE(types.layout(4711));
}

TEST(Conversion, FieldsMoveByName) {
  Types types;
  const int number = types.integer(4);
  const auto from =
      *types.layout(types.structure(12, {{"a", number, 0}, {"gone", number, 4}, {"b", number, 8}}));
  const auto to = *types.layout(
      types.structure(16, {{"b", number, 0}, {"fresh", number, 4}, {"a", number, 8}}));
  const auto value = convert(from, to, bytes(u32{1}, u32{2}, u32{3}));
  ASSERT_TRUE(value);
  EXPECT_EQ(*value, bytes(u32{3}, u32{0}, u32{1}, u32{0}));
}

TEST(Conversion, ToTheSameLayoutAndBackNothingIsLost) {
  Types types;
  const int word = types.integer(4);
  const auto layout = *types.layout(types.structure(
      16, {{"a", types.integer(8), 0}, {"b", types.array(word, 1), 8}, {"c", word, 12}}));
  const std::vector<std::byte> value = bytes(u64{0x1122334455667788}, u32{7}, ~u32{0});
  EXPECT_EQ(*convert(layout, layout, value), value);
}

TEST(Conversion, ArraysBecomeLongerAndShorter) {
  Types types;
  const int number = types.integer(2);
  const auto two = *types.layout(types.array(number, 2));
  const auto three = *types.layout(types.array(number, 3));
  EXPECT_EQ(*convert(two, three, bytes(u16{5}, u16{6})), bytes(u16{5}, u16{6}, u16{0}));
  EXPECT_EQ(*convert(three, two, bytes(u16{5}, u16{6}, u16{7})), bytes(u16{5}, u16{6}));
}

TEST(Conversion, IntegersChangeTheirWidth) {
  Types types;
  const auto of = [&](std::uint32_t size, bool is_signed = false) {
    return *types.layout(types.structure(size, {{"n", types.integer(size, is_signed), 0}}));
  };
  EXPECT_EQ(*convert(of(2), of(8), bytes(u16{65'535})), bytes(u64{65'535}));
  EXPECT_EQ(*convert(of(2, true), of(4, true), bytes(std::int16_t{-3})), bytes(std::int32_t{-3}));
  EXPECT_EQ(*convert(of(4, true), of(1, true), bytes(std::int32_t{-3})), bytes(std::int8_t{-3}));
  EXPECT_EQ(*convert(of(8), of(1), bytes(u64{255})), bytes(u8{255}));
  const auto too_large = convert(of(8), of(1), bytes(u64{256}));
  ASSERT_FALSE(too_large);
  EXPECT_THAT(too_large.error().text(), HasSubstr("field n cannot hold 256"));
}

TEST(Conversion, NetworkOrderKeepsItsWidth) {
  Types types;
  const auto of = [&](const char* name, std::uint32_t size) {
    return *types.layout(
        types.structure(size, {{"port", types.named(name, types.integer(size)), 0}}));
  };
  const auto wider = convert(of("__be16", 2), of("__be32", 4), bytes(u16{80}));
  ASSERT_FALSE(wider);
  EXPECT_THAT(wider.error().text(), HasSubstr("field port"));
  EXPECT_TRUE(convert(of("__be16", 2), of("__be16", 2), bytes(u16{80})));
}

TEST(Conversion, WhatIsBetweenTheFieldsIsZero) {
  Types types;
  const auto to =
      *types.layout(types.structure(8, {{"a", types.integer(1), 0}, {"b", types.integer(4), 4}}));
  const auto value = convert(to, to, std::vector(8, std::byte{0xff}));
  ASSERT_TRUE(value);
  EXPECT_THAT(std::span(*value).subspan(1, 3), Each(std::byte{0}));
}

/// Of what maps look like, and nothing else; the compiler orders them by their uses. FNV-1a.
std::uint64_t fingerprint(const bpf_object* object) {
  const btf& types = *bpf_object__btf(object);
  std::map<std::string, std::string> looks;
  const bpf_map* map = nullptr;
  bpf_object__for_each_map(map, object) {
    const std::string name = bpf_map__name(map);
    const std::uint32_t key = bpf_map__btf_key_type_id(map);
    if (key == 0 || name == "scratch" || name == "ending" || name == "ways" ||
        name.find('.') != std::string::npos) {
      continue;  // of one load only
    }
    for (const std::uint32_t type : {key, bpf_map__btf_value_type_id(map)}) {
      const auto layout = Layout::of(types, type);
      EXPECT_TRUE(layout) << name << ": " << layout.error().text();
      for (const Field& field : layout->fields) {
        looks[name] +=
            field.path + "@" + std::to_string(field.offset) + ":" + std::to_string(field.size);
      }
    }
  }
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const auto& [name, look] : looks) {
    for (const char letter : name + look) {
      hash = (hash ^ static_cast<unsigned char>(letter)) * 0x100000001b3;
    }
  }
  return hash;
}

TEST(Layout, AnotherOneHasAnotherNumber) {
  bpf_object* const object = bpf_object__open_file(FAIRLEAD_BPF_OBJECT, nullptr);
  ASSERT_NE(object, nullptr);
  EXPECT_EQ(std::pair(FL_LAYOUT, fingerprint(object)),
            std::pair(2, std::uint64_t{6665388592930694869U}))
      << "a struct of bpf/abi.h has changed: count FL_LAYOUT up, and write both numbers here";
  bpf_object__close(object);
}

}  // namespace
}  // namespace fairlead::bpf
