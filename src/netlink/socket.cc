// SPDX-License-Identifier: Apache-2.0
// Why one acknowledgement per send is enough. Generic netlink, rtnetlink and nfnetlink carry a
// request out inside the sender's own sendmsg(): when that returns, each request of the send has
// been handled, in order, and its answer, if any, is queued on our socket. A failure is always
// answered; success only if asked for (NLM_F_ACK). So we ask for it on the last request alone: its
// answer says that the end was reached, and silence about an earlier request means it succeeded,
// unless an answer was lost. Losing one is never silent: whether the queue is full or memory is
// short, the kernel marks the socket with ENOBUFS, still within that sendmsg(), and from then on
// queues nothing before we have emptied the queue. Hence: answer of the last one seen and no
// ENOBUFS: all is known. ENOBUFS: what has no answer of its own is unknown. (A handler that returns
// EINTR is never answered at all, acknowledgement or not; the commands we use do not.)
// What it saves: 110,000 IPVS requests took 1.0-1.2 s this way and 19 s with an acknowledgement of
// each, in one run of user-mode Linux; sends of 256 instead of 1024 requests took 2.0 s.
#include "netlink/socket.h"

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <libmnl/libmnl.h>
#include <linux/netlink.h>
#include <poll.h>
#include <string>
#include <sys/socket.h>
#include <sys/uio.h>
#include <utility>

#include "base/check.h"

namespace fairlead::netlink {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kHeaderSize = sizeof(nlmsghdr);
constexpr std::size_t kAttributeHeader = sizeof(nlattr);
// Dumps come in pieces of at most 32 KiB; an answer may echo a request of up to 64 KiB.
constexpr std::size_t kReceiveSize = std::size_t{80} * 1024;
constexpr int kReceiveBuffer = 2 * 1024 * 1024;  // the kernel doubles it; taken only as needed
// What one queued answer counts against the receive buffer: 768 bytes seen for a plain one, more
// with the kernel's text. Sends are bounded so that even a refusal of each request fits.
constexpr std::size_t kAnswerCost = 2048;
constexpr int kDumpAttempts = 5;

constexpr std::size_t aligned(std::size_t size) { return (size + 3U) & ~std::size_t{3}; }

template <typename T>
T load(std::span<const std::uint8_t> bytes, std::size_t offset = 0) {
  FAIRLEAD_CHECK(offset + sizeof(T) <= bytes.size());
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

// Overwrites header fields of a message that lies in a byte buffer.
template <typename T>
void store(std::span<std::uint8_t> bytes, std::size_t offset, T value) {
  FAIRLEAD_CHECK(offset + sizeof(T) <= bytes.size());
  std::memcpy(bytes.data() + offset, &value, sizeof(T));
}

Error kernel_error(int errno_value, std::string_view kernel_text) {
  const char* description = strerrordesc_np(errno_value);
  std::string text(kernel_text);
  if (text.empty()) {
    text = description != nullptr ? description : "unknown error";
  }
  text += " (" + errno_name(errno_value) + ")";
  return {Error::from_errno(errno_value, "").kind(), std::move(text), errno_value};
}

// NLMSG_ERROR: 0 or a negative errno, the header of our request, perhaps the request itself (unless
// capped), perhaps attributes.
Status decode_answer(const Message& message) {
  const auto answer = message.header<nlmsgerr>();
  if (!answer) {
    return fail(ErrorKind::kSystem, "malformed answer of the kernel");
  }
  if (answer->error == 0) {
    return {};
  }
  std::string_view text;
  if ((message.flags & NLM_F_ACK_TLVS) != 0) {
    std::size_t offset = sizeof(nlmsgerr);
    if ((message.flags & NLM_F_CAPPED) == 0) {
      offset = sizeof(int) + aligned(answer->msg.nlmsg_len);
    }
    const Attributes attributes = message.attributes(offset);
    text = attributes[NLMSGERR_ATTR_MSG].string().value_or("");
  }
  // INT_MIN has no positive twin; a kernel does not send it, a fuzzer does.
  const int errno_value = answer->error < 0 && answer->error > -65536 ? -answer->error : EPROTO;
  return fail(kernel_error(errno_value, text));
}

struct CloseSocket {
  void operator()(mnl_socket* socket) const { mnl_socket_close(socket); }
};

void set_option(mnl_socket* socket, int option) {
  // A kernel without it sends longer answers, or ones without text; both are understood.
  int on = 1;
  static_cast<void>(mnl_socket_setsockopt(socket, option, &on, sizeof(on)));
}

std::size_t enlarge_receive_buffer(int fd) {
  const int wanted = kReceiveBuffer;
  if (::setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &wanted, sizeof(wanted)) != 0) {
    // Unprivileged: what the system's limit allows. A small buffer only makes sends smaller.
    static_cast<void>(::setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &wanted, sizeof(wanted)));
  }
  int granted = 0;
  socklen_t size = sizeof(granted);
  if (::getsockopt(fd, SOL_SOCKET, SO_RCVBUF, &granted, &size) != 0 || granted < 0) {
    return 0;
  }
  return static_cast<std::size_t>(granted);
}

}  // namespace

// Request

Request::Request(std::uint16_t type, std::uint16_t flags) {
  bytes_.reserve(256);
  const nlmsghdr header{.nlmsg_len = kHeaderSize,
                        .nlmsg_type = type,
                        .nlmsg_flags = static_cast<std::uint16_t>(flags | NLM_F_REQUEST),
                        .nlmsg_seq = 0,
                        .nlmsg_pid = 0};
  append(&header, sizeof(header));
}

void Request::append(const void* data, std::size_t size) {
  const std::size_t offset = bytes_.size();
  bytes_.resize(offset + aligned(size));
  if (size != 0) {
    std::memcpy(bytes_.data() + offset, data, size);
  }
  fix_length();
}

void Request::fix_length() {
  store(std::span(bytes_), offsetof(nlmsghdr, nlmsg_len),
        static_cast<std::uint32_t>(bytes_.size()));
}

void Request::put(std::uint16_t attribute, const void* data, std::size_t size,
                  std::size_t extra_zeros) {
  const std::size_t length = kAttributeHeader + size + extra_zeros;
  FAIRLEAD_CHECK(length <= UINT16_MAX);
  const std::size_t offset = bytes_.size();
  bytes_.resize(offset + aligned(length));
  store(std::span(bytes_), offset,
        nlattr{.nla_len = static_cast<std::uint16_t>(length), .nla_type = attribute});
  if (size != 0) {
    std::memcpy(bytes_.data() + offset + kAttributeHeader, data, size);
  }
  fix_length();
}

Request& Request::put_u8(std::uint16_t attribute, std::uint8_t value) {
  put(attribute, &value, sizeof(value), 0);
  return *this;
}
Request& Request::put_u16(std::uint16_t attribute, std::uint16_t value) {
  put(attribute, &value, sizeof(value), 0);
  return *this;
}
Request& Request::put_u32(std::uint16_t attribute, std::uint32_t value) {
  put(attribute, &value, sizeof(value), 0);
  return *this;
}
Request& Request::put_be16(std::uint16_t attribute, Be16 value) {
  return put_u16(attribute, value.raw());
}
Request& Request::put_be32(std::uint16_t attribute, Be32 value) {
  return put_u32(attribute, value.raw());
}
Request& Request::put_bytes(std::uint16_t attribute, std::span<const std::uint8_t> bytes) {
  put(attribute, bytes.data(), bytes.size(), 0);
  return *this;
}
Request& Request::put_string(std::uint16_t attribute, std::string_view value) {
  put(attribute, value.data(), value.size(), 1);
  return *this;
}
Request& Request::put_flag(std::uint16_t attribute) {
  put(attribute, nullptr, 0, 0);
  return *this;
}

Request::Nest Request::begin(std::uint16_t attribute) {
  const Nest nest{bytes_.size()};
  put(attribute | NLA_F_NESTED, nullptr, 0, 0);
  return nest;
}

void Request::end(Nest nest) {
  const std::size_t length = bytes_.size() - nest.offset;
  FAIRLEAD_CHECK(length <= UINT16_MAX);
  store(std::span(bytes_), nest.offset + offsetof(nlattr, nla_len),
        static_cast<std::uint16_t>(length));
}

// Reading

std::optional<std::string_view> Attribute::string() const {
  if (!present_) {
    return std::nullopt;
  }
  const std::string_view all =
      value_.empty()
          ? std::string_view()
          : std::string_view(reinterpret_cast<const char*>(value_.data()), value_.size());
  return all.substr(0, all.find('\0'));
}

bool for_each_attribute(
    std::span<const std::uint8_t> bytes,
    const std::function<void(std::uint16_t type, const Attribute& value)>& on_attribute) {
  while (bytes.size() >= kAttributeHeader) {
    const auto header = load<nlattr>(bytes);
    if (header.nla_len < kAttributeHeader || header.nla_len > bytes.size()) {
      return false;
    }
    on_attribute(static_cast<std::uint16_t>(header.nla_type & NLA_TYPE_MASK),
                 Attribute(bytes.subspan(kAttributeHeader, header.nla_len - kAttributeHeader)));
    bytes = bytes.subspan(std::min(aligned(header.nla_len), bytes.size()));
  }
  return bytes.empty();
}

Attributes Attributes::parse(std::span<const std::uint8_t> bytes) {
  Attributes attributes;
  for_each_attribute(bytes, [&](std::uint16_t type, const Attribute& value) {
    if (type <= kMaxType) {
      attributes.table_[type] = value;
    }
  });
  return attributes;
}

const Attribute& Attributes::operator[](std::uint16_t type) const {
  FAIRLEAD_CHECK(type <= kMaxType);
  return table_[type];
}

std::span<const std::uint8_t> Message::attribute_bytes(std::size_t header_size) const {
  return payload.subspan(std::min(aligned(header_size), payload.size()));
}

void for_each_message(std::span<const std::uint8_t> bytes,
                      const std::function<void(const Message&)>& on_message) {
  while (bytes.size() >= kHeaderSize) {
    const auto header = load<nlmsghdr>(bytes);
    if (header.nlmsg_len < kHeaderSize || header.nlmsg_len > bytes.size()) {
      return;
    }
    on_message(Message{.type = header.nlmsg_type,
                       .flags = header.nlmsg_flags,
                       .sequence = header.nlmsg_seq,
                       .payload = bytes.subspan(kHeaderSize, header.nlmsg_len - kHeaderSize)});
    bytes = bytes.subspan(std::min(aligned(header.nlmsg_len), bytes.size()));
  }
}

// Socket

struct Socket::State {
  std::unique_ptr<mnl_socket, CloseSocket> socket;
  SocketOptions options;
  std::uint32_t next_sequence = 1;
  std::vector<std::uint8_t> send_buffer;
  std::vector<std::uint8_t> receive_buffer = std::vector<std::uint8_t>(kReceiveSize);

  enum class Received { kData, kNothing, kLost, kFailed };

  [[nodiscard]] int fd() const { return mnl_socket_get_fd(socket.get()); }

  // Sequence 0 is left to the kernel's own news.
  [[nodiscard]] std::uint32_t take_sequences(std::size_t count) {
    if (next_sequence > UINT32_MAX - count) {
      next_sequence = 1;
    }
    return std::exchange(next_sequence, next_sequence + static_cast<std::uint32_t>(count));
  }

  void append(const Request& request, std::uint32_t sequence, std::uint16_t more_flags) {
    const auto bytes = request.bytes();
    const std::size_t offset = send_buffer.size();
    send_buffer.insert(send_buffer.end(), bytes.begin(), bytes.end());
    const std::span<std::uint8_t> mine = std::span(send_buffer).subspan(offset);
    const auto flags = load<std::uint16_t>(mine, offsetof(nlmsghdr, nlmsg_flags));
    store(mine, offsetof(nlmsghdr, nlmsg_flags), static_cast<std::uint16_t>(flags | more_flags));
    store(mine, offsetof(nlmsghdr, nlmsg_seq), sequence);
  }

  // Hands the send buffer to the kernel; 0 or errno.
  [[nodiscard]] int send() {
    sockaddr_nl kernel{};
    kernel.nl_family = AF_NETLINK;
    const ssize_t sent = ::sendto(fd(), send_buffer.data(), send_buffer.size(), MSG_NOSIGNAL,
                                  reinterpret_cast<const sockaddr*>(&kernel), sizeof(kernel));
    const int error = sent < 0 ? errno : 0;
    send_buffer.clear();
    return error;
  }

  // One receive call, never waiting.
  [[nodiscard]] Received receive(const OnMessage& on_message) {
    for (;;) {
      sockaddr_nl from{};
      iovec vector{.iov_base = receive_buffer.data(), .iov_len = receive_buffer.size()};
      msghdr header{};
      header.msg_name = &from;
      header.msg_namelen = sizeof(from);
      header.msg_iov = &vector;
      header.msg_iovlen = 1;
      const ssize_t size = ::recvmsg(fd(), &header, MSG_DONTWAIT);
      if (size < 0) {
        switch (errno) {
          case EINTR:
            continue;
          case EAGAIN:
            return Received::kNothing;
          case ENOBUFS:
            return Received::kLost;
          default:
            return Received::kFailed;
        }
      }
      if (from.nl_pid != 0) {
        continue;  // another process; only the kernel is believed
      }
      for_each_message(std::span(receive_buffer).first(static_cast<std::size_t>(size)), on_message);
      return (header.msg_flags & MSG_TRUNC) != 0 ? Received::kLost : Received::kData;
    }
  }

  // Until something is there to read (true) or `deadline`.
  [[nodiscard]] bool wait(Clock::time_point deadline) const {
    for (;;) {
      const auto left =
          std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
      pollfd poll_fd{.fd = fd(), .events = POLLIN, .revents = 0};
      const int ready = ::poll(&poll_fd, 1, static_cast<int>(std::max<std::int64_t>(left, 0)));
      if (ready > 0) {
        return true;
      }
      if (ready == 0 || errno != EINTR) {
        return false;
      }
    }
  }

  // Sends requests [first, first + count) as one message burst and fills their statuses. False if
  // the kernel fell silent: then sending more would only wait again.
  bool execute_burst(std::span<const Request> requests, std::span<Status> statuses);
  // One request until its end: an answer (NLMSG_ERROR, also for success) or NLMSG_DONE.
  struct Exchange {
    Status status;
    bool interrupted = false;
  };
  Exchange exchange(const Request& request, std::uint16_t flags, const OnMessage& on_message);
  // Reads away what an abandoned dump still delivers, within the deadline.
  void discard_pending();
};

bool Socket::State::execute_burst(std::span<const Request> requests, std::span<Status> statuses) {
  const std::uint32_t first_sequence = take_sequences(requests.size());
  for (std::size_t i = 0; i < requests.size(); ++i) {
    const bool asks = options.acknowledge_each || i + 1 == requests.size();
    append(requests[i], first_sequence + static_cast<std::uint32_t>(i), asks ? NLM_F_ACK : 0);
  }
  if (const int error = send(); error != 0) {
    std::ranges::fill(statuses, fail_errno(error, "send to the kernel"));
    return true;
  }

  std::vector<bool> answered(requests.size(), false);
  bool reached_end = false;
  bool lost = false;
  int failed = 0;
  Clock::time_point deadline = Clock::now() + options.deadline;
  const OnMessage on_message = [&](const Message& message) {
    // Unsigned distance: answers to earlier, given up requests fall outside.
    const std::uint32_t index = message.sequence - first_sequence;
    if (message.type != NLMSG_ERROR || index >= requests.size()) {
      return;
    }
    answered[index] = true;
    statuses[index] = decode_answer(message);
    reached_end = reached_end || index + 1 == requests.size();
    deadline = Clock::now() + options.deadline;
  };
  while (!reached_end && failed == 0) {
    const Received received = receive(on_message);
    if (received == Received::kLost) {
      lost = true;
    } else if (received == Received::kFailed) {
      failed = errno;
    } else if (received == Received::kNothing && (lost || !wait(deadline))) {
      break;  // after a loss nothing is on its way any more
    }
  }
  // An ENOBUFS that came up behind the last answer would be reported first, so none is pending.
  const bool silence_is_success = reached_end && !lost && !options.acknowledge_each;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    if (answered[i] || silence_is_success) {
      continue;
    }
    if (failed != 0) {
      statuses[i] = fail_errno(failed, "receive from the kernel");
    } else if (lost || reached_end) {
      statuses[i] = tl::unexpected(
          Error(ErrorKind::kOverflow, "the kernel's answer was lost (ENOBUFS)", ENOBUFS));
    } else {
      statuses[i] = fail(ErrorKind::kTimeout, "no answer from the kernel");
    }
  }
  return reached_end || lost;
}

Socket::State::Exchange Socket::State::exchange(const Request& request, std::uint16_t flags,
                                                const OnMessage& on_message) {
  const std::uint32_t sequence = take_sequences(1);
  append(request, sequence, flags);
  if (const int error = send(); error != 0) {
    return {.status = fail_errno(error, "send to the kernel")};
  }
  Exchange result;
  bool ended = false;
  bool lost = false;
  Clock::time_point deadline = Clock::now() + options.deadline;
  const OnMessage sort = [&](const Message& message) {
    if (message.sequence != sequence || ended) {
      return;
    }
    deadline = Clock::now() + options.deadline;
    result.interrupted = result.interrupted || (message.flags & NLM_F_DUMP_INTR) != 0;
    if (message.type == NLMSG_ERROR) {
      ended = true;
      result.status = decode_answer(message);
    } else if (message.type == NLMSG_DONE) {
      ended = true;
      const int error = message.header<int>().value_or(0);
      if (error < 0) {
        result.status = fail(kernel_error(error > -65536 ? -error : EPROTO, ""));
      }
    } else if (message.type == NLMSG_OVERRUN) {
      lost = true;
    } else if (message.type >= NLMSG_MIN_TYPE) {
      on_message(message);
    }
  };
  while (!ended) {
    const Received received = receive(sort);
    if (received == Received::kFailed) {
      return {.status = fail_errno(errno, "receive from the kernel")};
    }
    if (received == Received::kLost) {
      lost = true;
    } else if (received == Received::kNothing && (lost || !wait(deadline))) {
      break;
    }
  }
  if (lost && result.status) {
    result.status = tl::unexpected(
        Error(ErrorKind::kOverflow, "the kernel's answer was lost (ENOBUFS)", ENOBUFS));
  } else if (!ended && !lost) {
    result.status = fail(ErrorKind::kTimeout, "no answer from the kernel");
  }
  return result;
}

void Socket::State::discard_pending() {
  const Clock::time_point deadline = Clock::now() + options.deadline;
  while (Clock::now() < deadline) {
    const Received received = receive([](const Message&) {});
    if (received == Received::kNothing || received == Received::kFailed) {
      return;
    }
  }
}

Socket::Socket(std::unique_ptr<State> state) : state_(std::move(state)) {}
Socket::Socket(Socket&&) noexcept = default;
Socket& Socket::operator=(Socket&&) noexcept = default;
Socket::~Socket() = default;

Result<Socket> Socket::open(int protocol, SocketOptions options) {
  auto state = std::make_unique<State>();
  state->socket.reset(mnl_socket_open2(protocol, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (state->socket == nullptr) {
    const int error = errno;
    if (error == EPROTONOSUPPORT || error == EAFNOSUPPORT) {
      return tl::unexpected(
          Error(ErrorKind::kUnavailable,
                "the kernel does not have netlink protocol " + std::to_string(protocol), error));
    }
    return fail_errno(error, "open netlink socket");
  }
  if (mnl_socket_bind(state->socket.get(), 0, MNL_SOCKET_AUTOPID) != 0) {
    return fail_errno(errno, "bind netlink socket");
  }
  set_option(state->socket.get(), NETLINK_EXT_ACK);
  set_option(state->socket.get(), NETLINK_CAP_ACK);
  const std::size_t granted = enlarge_receive_buffer(state->fd());
  options.max_messages = std::clamp<std::size_t>(granted / kAnswerCost, 1,
                                                 std::max<std::size_t>(options.max_messages, 1));
  state->options = options;
  return Socket(std::move(state));
}

std::vector<Status> Socket::execute(std::span<const Request> requests) {
  std::vector<Status> statuses(requests.size());
  const SocketOptions& options = state_->options;
  std::size_t first = 0;
  while (first < requests.size()) {
    std::size_t count = 0;
    std::size_t bytes = 0;
    while (first + count < requests.size() && count < options.max_messages) {
      const std::size_t size = requests[first + count].bytes().size();
      if (count != 0 && bytes + size > options.max_bytes) {
        break;
      }
      bytes += size;
      ++count;
    }
    const bool alive = state_->execute_burst(requests.subspan(first, count),
                                             std::span(statuses).subspan(first, count));
    first += count;
    if (!alive) {
      std::fill(statuses.begin() + static_cast<std::ptrdiff_t>(first), statuses.end(),
                fail(ErrorKind::kTimeout, "not sent: the kernel did not answer earlier requests"));
      break;
    }
  }
  return statuses;
}

Status Socket::execute_one(const Request& request) {
  return std::move(execute(std::span(&request, 1)).front());
}

Status Socket::get(const Request& request, const OnMessage& on_message) {
  return state_->exchange(request, NLM_F_ACK, on_message).status;
}

Status Socket::dump(const Request& request, const OnMessage& on_message,
                    const std::function<void()>& on_restart) {
  Status last = fail(ErrorKind::kOverflow, "the dump was interrupted by changes each time");
  for (int attempt = 0; attempt < kDumpAttempts; ++attempt) {
    if (attempt != 0 && on_restart) {
      on_restart();
    }
    const State::Exchange exchange = state_->exchange(request, NLM_F_DUMP, on_message);
    const bool busy = !exchange.status && exchange.status.error().errno_value() == EBUSY;
    const bool lost = !exchange.status && exchange.status.error().kind() == ErrorKind::kOverflow;
    if (!busy && !lost && !exchange.interrupted) {
      return exchange.status;
    }
    if (!exchange.status) {
      last = exchange.status;
    }
    // Busy: this socket's previous dump was abandoned half way and has to be read to its end, or
    // somebody else holds the table; give them a moment.
    state_->discard_pending();
    if (busy) {
      static_cast<void>(state_->wait(Clock::now() + std::chrono::milliseconds(10 << attempt)));
    }
  }
  return last;
}

Status Socket::join(std::uint32_t group) {
  if (mnl_socket_setsockopt(state_->socket.get(), NETLINK_ADD_MEMBERSHIP, &group, sizeof(group)) !=
      0) {
    return fail_errno(errno, "join netlink group " + std::to_string(group));
  }
  return {};
}

Status Socket::receive_pending(const OnMessage& on_message) {
  bool lost = false;
  for (;;) {
    switch (state_->receive(on_message)) {
      case State::Received::kData:
        break;
      case State::Received::kLost:
        lost = true;
        break;
      case State::Received::kFailed:
        return fail_errno(errno, "receive from the kernel");
      case State::Received::kNothing:
        if (lost) {
          return tl::unexpected(
              Error(ErrorKind::kOverflow, "news of the kernel was lost (ENOBUFS)", ENOBUFS));
        }
        return {};
    }
  }
}

int Socket::fd() const { return state_->fd(); }

}  // namespace fairlead::netlink
