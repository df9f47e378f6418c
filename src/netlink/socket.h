// SPDX-License-Identifier: Apache-2.0
// Netlink messages as values and a socket that talks to the kernel: many requests per send, each
// answer mapped back to its request. Families (generic, route, ipset, conntrack) build on it.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/byte_order.h"
#include "base/result.h"

namespace fairlead::netlink {

/// One request, owning its bytes: header, family header, attributes. Type and flags are the
/// family's (NLM_F_REQUEST is implied; acknowledgement, sequence and port id are the socket's
/// business).
class Request {
 public:
  explicit Request(std::uint16_t type, std::uint16_t flags = 0);

  /// The family's fixed header (genlmsghdr, nfgenmsg, ifaddrmsg, ...); before any attribute.
  template <typename T>
  Request& put_header(const T& header) {
    static_assert(std::is_trivially_copyable_v<T>);
    append(&header, sizeof(T));
    return *this;
  }

  Request& put_u8(std::uint16_t attribute, std::uint8_t value);
  Request& put_u16(std::uint16_t attribute, std::uint16_t value);  // CPU order
  Request& put_u32(std::uint16_t attribute, std::uint32_t value);  // CPU order
  Request& put_be16(std::uint16_t attribute, Be16 value);
  Request& put_be32(std::uint16_t attribute, Be32 value);
  Request& put_bytes(std::uint16_t attribute, std::span<const std::uint8_t> bytes);
  Request& put_string(std::uint16_t attribute, std::string_view value);  // with its final NUL
  Request& put_flag(std::uint16_t attribute);                            // empty attribute

  /// An open nest; give it back to `end`. Nests are ended in reverse order of their beginning.
  struct Nest {
    std::size_t offset;
  };
  /// Sets NLA_F_NESTED.
  [[nodiscard]] Nest begin(std::uint16_t attribute);
  void end(Nest nest);

  /// The whole message, its length field being right; sequence and port id are zero.
  [[nodiscard]] std::span<const std::uint8_t> bytes() const { return bytes_; }

 private:
  void append(const void* data, std::size_t size);
  void put(std::uint16_t attribute, const void* data, std::size_t size, std::size_t extra_zeros);
  void fix_length();

  std::vector<std::uint8_t> bytes_;
};

/// The value of one attribute as received; it points into the message. Each reader checks the
/// length and gives nullopt if the attribute is absent or of another length.
class Attribute {
 public:
  Attribute() = default;
  explicit Attribute(std::span<const std::uint8_t> value) : value_(value), present_(true) {}

  [[nodiscard]] explicit operator bool() const { return present_; }
  /// Empty if absent.
  [[nodiscard]] std::span<const std::uint8_t> bytes() const { return value_; }
  [[nodiscard]] std::optional<std::uint8_t> u8() const { return read<std::uint8_t>(); }
  [[nodiscard]] std::optional<std::uint16_t> u16() const { return read<std::uint16_t>(); }
  [[nodiscard]] std::optional<std::uint32_t> u32() const { return read<std::uint32_t>(); }
  [[nodiscard]] std::optional<std::uint64_t> u64() const { return read<std::uint64_t>(); }
  [[nodiscard]] std::optional<Be16> be16() const {
    const auto raw = u16();
    return raw ? std::optional(Be16::from_raw(*raw)) : std::nullopt;
  }
  [[nodiscard]] std::optional<Be32> be32() const {
    const auto raw = u32();
    return raw ? std::optional(Be32::from_raw(*raw)) : std::nullopt;
  }
  /// Up to the first NUL or the end; nullopt only if absent.
  [[nodiscard]] std::optional<std::string_view> string() const;
  /// Exactly a T as it lies in the kernel's memory.
  template <typename T>
  [[nodiscard]] std::optional<T> read() const {
    static_assert(std::is_trivially_copyable_v<T>);
    if (!present_ || value_.size() != sizeof(T)) {
      return std::nullopt;
    }
    T value;
    std::memcpy(&value, value_.data(), sizeof(T));
    return value;
  }

 private:
  std::span<const std::uint8_t> value_;
  bool present_ = false;
};

/// Calls `on_attribute(type, value)` for each attribute in order; the flag bits NLA_F_NESTED and
/// NLA_F_NET_BYTEORDER are cut off the type. False if it had to stop at a header that is
/// impossible (shorter than itself, or longer than what is left).
bool for_each_attribute(
    std::span<const std::uint8_t> bytes,
    const std::function<void(std::uint16_t type, const Attribute& value)>& on_attribute);

/// Attributes by type. Types above kMaxType are skipped as unknown; of a repeated type the last
/// counts. Bytes after an impossible attribute header are ignored: what a caller needs and does not
/// find is absent to it.
class Attributes {
 public:
  static constexpr std::uint16_t kMaxType = 63;

  [[nodiscard]] static Attributes parse(std::span<const std::uint8_t> bytes);

  /// Absent if it was not there.
  [[nodiscard]] const Attribute& operator[](std::uint16_t type) const;
  [[nodiscard]] Attributes nest(std::uint16_t type) const { return parse((*this)[type].bytes()); }

 private:
  std::array<Attribute, kMaxType + 1> table_{};
};

/// One message as received; valid during the callback that gets it.
struct Message {
  std::uint16_t type = 0;
  std::uint16_t flags = 0;
  std::uint32_t sequence = 0;
  std::span<const std::uint8_t> payload;  // family header, then attributes

  /// The family header, if the payload is long enough.
  template <typename T>
  [[nodiscard]] std::optional<T> header() const {
    static_assert(std::is_trivially_copyable_v<T>);
    if (payload.size() < sizeof(T)) {
      return std::nullopt;
    }
    T value;
    std::memcpy(&value, payload.data(), sizeof(T));
    return value;
  }
  /// What follows a family header of `header_size` bytes (aligned to 4).
  [[nodiscard]] std::span<const std::uint8_t> attribute_bytes(std::size_t header_size) const;
  [[nodiscard]] Attributes attributes(std::size_t header_size) const {
    return Attributes::parse(attribute_bytes(header_size));
  }
};

/// Splits what one receive call gave into messages. Never reads outside `bytes`; stops at the first
/// impossible header.
void for_each_message(std::span<const std::uint8_t> bytes,
                      const std::function<void(const Message&)>& on_message);

struct SocketOptions {
  /// Longest silence while an answer is due.
  std::chrono::milliseconds deadline{3000};
  /// Bounds of one send; the number is lowered further if the kernel grants a small receive buffer.
  std::size_t max_messages = 1024;
  std::size_t max_bytes = std::size_t{128} * 1024;
  /// Ask for an acknowledgement of each request instead of the last of each send only. Not needed
  /// for correctness (see socket.cc); for measurements.
  bool acknowledge_each = false;
};

/// A netlink socket to the kernel. Move-only; not thread-safe; descriptor is close-on-exec and
/// non-blocking. Acts in the network namespace of the thread that opened it. No call waits longer
/// than the deadline without news from the kernel; time the kernel spends inside one send (its
/// handlers run there) is beyond our control.
class Socket {
 public:
  using OnMessage = std::function<void(const Message&)>;

  /// `protocol`: NETLINK_ROUTE, NETLINK_GENERIC, NETLINK_NETFILTER, ... kUnavailable if the kernel
  /// lacks it.
  [[nodiscard]] static Result<Socket> open(int protocol, SocketOptions options = {});
  Socket(Socket&&) noexcept;
  Socket& operator=(Socket&&) noexcept;
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  ~Socket();

  /// Sends the requests in order, many per system call; one status per request, in the same order.
  /// A refused request does not stop later ones; its error holds the errno, and the kernel's own
  /// text if it sent one. When answers were lost (ENOBUFS), every request of that send without an
  /// answer of its own gets kOverflow: it may have been carried out or not. When the kernel stays
  /// silent past the deadline, requests without an answer get kTimeout, and later ones are not sent
  /// any more and get kTimeout too.
  [[nodiscard]] std::vector<Status> execute(std::span<const Request> requests);
  [[nodiscard]] Status execute_one(const Request& request);

  /// A request that is answered by messages ("do"): calls `on_message` for each, and returns after
  /// the kernel's acknowledgement or error.
  [[nodiscard]] Status get(const Request& request, const OnMessage& on_message);

  /// A dump (NLM_F_DUMP is added). A dump that the kernel calls interrupted by a change, or refuses
  /// as busy, is repeated a few times; before each repetition `on_restart` is called, to forget
  /// what was delivered so far. kOverflow if it never came out whole.
  [[nodiscard]] Status dump(const Request& request, const OnMessage& on_message,
                            const std::function<void()>& on_restart = {});

  /// Joins a multicast group (RTNLGRP_...).
  [[nodiscard]] Status join(std::uint32_t group);
  /// Reads what is queued without waiting; for multicast news. kOverflow if some was lost; the rest
  /// has been read then.
  [[nodiscard]] Status receive_pending(const OnMessage& on_message);
  [[nodiscard]] int fd() const;

 private:
  struct State;
  explicit Socket(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace fairlead::netlink
