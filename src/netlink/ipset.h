// SPDX-License-Identifier: Apache-2.0
// The kernel's ipsets over nfnetlink (protocol 6 or 7, negotiated). Members are values, so that
// "10.1.1.1/32" and "10.1.1.1" cannot differ.
#pragma once

#include <compare>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "net/address.h"

namespace fairlead::netlink {

enum class SetType : std::uint8_t {
  kHashIp,         // hash:ip
  kHashIpPort,     // hash:ip,port
  kHashIpPortIp,   // hash:ip,port,ip
  kHashIpPortNet,  // hash:ip,port,net
  kBitmapPort,     // bitmap:port, range 0-65535
};
[[nodiscard]] std::string_view text(SetType type);  // "hash:ip,port"

struct SetSpec {
  std::string name;  // at most 31 characters
  SetType type = SetType::kHashIpPort;
  net::Family family = net::Family::kIpv4;  // ignored by bitmaps
  std::uint32_t hash_size = 1024;
  std::uint32_t max_elements = 65536;

  friend bool operator==(const SetSpec&, const SetSpec&) = default;
};

/// Members carry only the fields their set's type has; the others stay default.
struct SetMember {
  net::IpAddress ip;
  net::Protocol protocol = net::Protocol::kTcp;
  net::Port port{};
  net::IpPrefix second;  // of kHashIpPortIp (full length) and kHashIpPortNet (length >= 1)

  /// ipset's own form: `10.96.0.1,tcp:80`, `30080`, `10.0.0.1,tcp:80,10.0.0.1`.
  [[nodiscard]] std::string text(SetType type) const;
  friend auto operator<=>(const SetMember&, const SetMember&) = default;
};

struct SetOp {
  enum class Kind { kAdd, kDelete };
  Kind kind = Kind::kAdd;
  std::string set;
  SetType type = SetType::kHashIpPort;
  SetMember member;
};

/// Not thread-safe; blocking with a deadline. Acts in the network namespace it was opened in.
class IpSet {
 public:
  IpSet() = default;
  IpSet(const IpSet&) = delete;
  IpSet& operator=(const IpSet&) = delete;
  virtual ~IpSet() = default;

  /// Header of a set; nullopt if there is none of that name. A set of a type we do not know gives
  /// kInvalidInput naming its type.
  [[nodiscard]] virtual Result<std::optional<SetSpec>> header(const std::string& name) = 0;
  /// Plain create; kAlreadyExists if the name is taken (the caller compares headers).
  [[nodiscard]] virtual Status create(const SetSpec& spec) = 0;
  [[nodiscard]] virtual Status destroy(const std::string& name) = 0;
  /// Exchanges the contents of two sets of compatible type atomically.
  [[nodiscard]] virtual Status swap(const std::string& a, const std::string& b) = 0;
  [[nodiscard]] virtual Result<std::vector<SetMember>> members(const std::string& name) = 0;
  /// In order, many per system call, one result per op; a failed op does not stop later ones.
  /// "Already a member" and "not a member" are success. A full set is kSystem, text names the set
  /// and its size.
  [[nodiscard]] virtual std::vector<Status> apply(std::span<const SetOp> ops) = 0;
};
/// kUnavailable if the kernel has no ipset.
[[nodiscard]] Result<std::unique_ptr<IpSet>> make_ipset();

}  // namespace fairlead::netlink
