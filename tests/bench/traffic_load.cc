// SPDX-License-Identifier: Apache-2.0
// The two ends of the traffic whose way is measured (tests/bench/traffic).
//
//   traffic_load CPU serve PORT
//   traffic_load CPU call
//
// It runs on the given CPU, and before what else the machine has to do. A server sends back what it
// gets; what begins with 's' it reads and forgets. A caller does what the lines of its input say,
// and answers each with a line of JSON:
//
//   connections|resets NAMESPACE COUNT PORT SERVER[,SERVER...] SOURCE[,SOURCE...] FIRST
//   packets|round-trips|stream NAMESPACE COUNT PORT SERVER SOURCE
//
// COUNT connections (of which FIRST were made from the sources before), packets, round trips, or
// MiB: an amount and no time, so that what beginning and ending costs is the same share for all.
#include <algorithm>
#include <arpa/inet.h>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <iostream>
#include <map>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include <utility>
#include <vector>

#include "base/unique_fd.h"

namespace {

using fairlead::UniqueFd;
using Clock = std::chrono::steady_clock;

// Both processors have something to do at every moment, so that a packet's cost shows in the rate.
constexpr std::size_t kInFlight = 32;
// Ports that the measured connections come from: each (source, port) once before any comes again.
constexpr std::uint32_t kFirstPort = 1024;
constexpr std::uint32_t kPorts = 64'000;
constexpr std::size_t kStreamChunk = std::size_t{256} * 1024;
constexpr std::uint64_t kStreamWarmUp = std::uint64_t{4} << 20U;

[[noreturn]] void die(const std::string& what) {
  std::fprintf(stderr, "traffic_load: %s: %s\n", what.c_str(), std::strerror(errno));
  std::exit(1);
}

void need(bool ok, const char* what) {
  if (!ok) {
    die(what);
  }
}

sockaddr_in address(const std::string& text, std::uint32_t port) {
  sockaddr_in made{};
  made.sin_family = AF_INET;
  made.sin_port = htons(static_cast<std::uint16_t>(port));
  errno = EINVAL;
  need(::inet_pton(AF_INET, text.c_str(), &made.sin_addr) == 1, text.c_str());
  return made;
}

const sockaddr* generic(const sockaddr_in& address) {
  return reinterpret_cast<const sockaddr*>(&address);
}

void set_option(int socket, int level, int name, int value) {
  need(::setsockopt(socket, level, name, &value, sizeof(value)) == 0, "setsockopt");
}

/// With Linux's default of congestion control, whatever the machine's is: one that paces measures
/// the way itself, and has less under way on a faster one.
void do_not_pace(int socket) {
  constexpr std::string_view kName = "cubic";
  need(::setsockopt(socket, IPPROTO_TCP, TCP_CONGESTION, kName.data(), kName.size()) == 0,
       "congestion control cubic");
}

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

void print_rate(double work, double seconds) { std::printf("{\"rate\": %.1f}\n", work / seconds); }

void watch(int poll, int socket, std::uint32_t events, std::uint64_t tag) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = tag;
  need(::epoll_ctl(poll, EPOLL_CTL_ADD, socket, &event) == 0, "epoll_ctl");
}

/// What has happened. A second of silence: something was lost, and the rate would tell of a timer.
std::span<const epoll_event> wait(int poll, std::span<epoll_event> events) {
  const int count = ::epoll_wait(poll, events.data(), static_cast<int>(events.size()), 1000);
  if (count == 0) {
    errno = ETIMEDOUT;
  }
  need(count > 0, "no answer");
  return events.first(static_cast<std::size_t>(count));
}

/// The scheduler shares the CPUs between sessions first, and within one by priority.
void come_first_on(std::size_t cpu) {
  constexpr int kNice = -15;
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  CPU_SET(cpu, &cpus);
  need(::sched_setaffinity(0, sizeof(cpus), &cpus) == 0, "sched_setaffinity");
  need(::setpriority(PRIO_PROCESS, 0, kNice) == 0, "setpriority");
  (void)::setsid();  // fails for the leader of a session, which is what we want to be
  std::ofstream("/proc/self/autogroup") << kNice;  // not there: nothing to be set
}

// --- Server --------------------------------------------------------------------------------------

void serve(std::uint32_t port) {
  const int listener = ::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  need(listener >= 0, "socket");
  do_not_pace(listener);
  set_option(listener, SOL_SOCKET, SO_REUSEADDR, 1);
  const sockaddr_in here = address("0.0.0.0", port);
  need(::bind(listener, generic(here), sizeof(here)) == 0, "bind");
  need(::listen(listener, 1024) == 0, "listen");
  const int poll = ::epoll_create1(0);
  need(poll >= 0, "epoll_create1");
  watch(poll, listener, EPOLLIN, static_cast<std::uint64_t>(listener));
  std::vector<char> buffer(kStreamChunk);
  std::vector<bool> is_stream;  // by descriptor
  std::array<epoll_event, 64> events{};
  std::puts("ready");
  std::fflush(stdout);

  const auto accept_all = [&] {
    for (int socket = 0; (socket = ::accept4(listener, nullptr, nullptr, SOCK_NONBLOCK)) >= 0;) {
      set_option(socket, IPPROTO_TCP, TCP_NODELAY, 1);
      is_stream.resize(std::max(is_stream.size(), static_cast<std::size_t>(socket) + 1));
      is_stream[static_cast<std::size_t>(socket)] = false;
      watch(poll, socket, EPOLLIN, static_cast<std::uint64_t>(socket));
    }
  };
  // False: the connection is over.
  const auto answer = [&](int socket) {
    const ssize_t got = ::recv(socket, buffer.data(), buffer.size(), 0);
    if (got <= 0) {
      return got < 0 && errno == EAGAIN;
    }
    if (buffer[0] == 's') {
      is_stream[static_cast<std::size_t>(socket)] = true;
    }
    return is_stream[static_cast<std::size_t>(socket)] ||
           ::send(socket, buffer.data(), static_cast<std::size_t>(got), MSG_NOSIGNAL) == got;
  };
  for (;;) {
    const int count = ::epoll_wait(poll, events.data(), static_cast<int>(events.size()), -1);
    for (int i = 0; i < count; ++i) {
      const int socket = static_cast<int>(events.at(static_cast<std::size_t>(i)).data.u64);
      if (socket == listener) {
        accept_all();
      } else if (!answer(socket)) {
        ::close(socket);
      }
    }
  }
}

// --- Connections that come and go ----------------------------------------------------------------

/// Connects, sends a byte, gets it back, closes; kInFlight at a time.
class Rate {
 public:
  Rate(std::vector<sockaddr_in> servers, bool resets, std::uint64_t count, std::uint64_t first,
       std::vector<sockaddr_in> sources)
      : servers_(std::move(servers)),
        sources_(std::move(sources)),
        resets_(resets),
        count_(count),
        next_(first),
        end_(first + count),
        poll_(::epoll_create1(0)) {
    need(poll_.get() >= 0, "epoll_create1");
  }

  void run() {
    const auto started = Clock::now();
    for (std::size_t slot = 0; slot < kInFlight && next_ < end_; ++slot) {
      open(slot);
    }
    std::array<epoll_event, kInFlight> events{};
    while (done_ < count_) {
      for (const epoll_event& event : wait(poll_.get(), events)) {
        go_on(event.data.u64);
      }
    }
    print_rate(static_cast<double>(count_), seconds_since(started));
  }

 private:
  void open(std::size_t slot) {
    UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
    need(socket.get() >= 0, "socket");
    do_not_pace(socket.get());
    set_option(socket.get(), SOL_SOCKET, SO_REUSEADDR, 1);
    const std::uint64_t number = next_++;
    sockaddr_in source = sources_[(number / kPorts) % sources_.size()];
    source.sin_port = htons(static_cast<std::uint16_t>(kFirstPort + number % kPorts));
    need(::bind(socket.get(), generic(source), sizeof(source)) == 0, "bind");
    if (resets_) {
      const linger now{1, 0};
      need(::setsockopt(socket.get(), SOL_SOCKET, SO_LINGER, &now, sizeof(now)) == 0, "linger");
    }
    const sockaddr_in& server = servers_[number % servers_.size()];
    need(::connect(socket.get(), generic(server), sizeof(server)) == 0 || errno == EINPROGRESS,
         "connect");
    watch(poll_.get(), socket.get(), EPOLLIN | EPOLLOUT | EPOLLET, slot);
    slots_.at(slot) = {std::move(socket), false};
  }

  void go_on(std::size_t slot) {
    Slot& at = slots_.at(slot);
    char byte = 'r';
    if (!at.asked) {
      need(::send(at.socket.get(), &byte, 1, MSG_NOSIGNAL) == 1, "connection");
      at.asked = true;
      return;
    }
    const ssize_t got = ::recv(at.socket.get(), &byte, 1, 0);
    if (got < 0 && errno == EAGAIN) {
      return;
    }
    need(got == 1, "answer");
    at.socket.reset();
    ++done_;
    if (next_ < end_) {
      open(slot);
    }
  }

  struct Slot {
    UniqueFd socket;
    bool asked = false;
  };

  std::vector<sockaddr_in> servers_;  // in turn
  std::vector<sockaddr_in> sources_;
  bool resets_;
  std::uint64_t count_, next_, end_, done_ = 0;
  UniqueFd poll_;
  std::array<Slot, kInFlight> slots_{};
};

// --- Connections that stay -----------------------------------------------------------------------

UniqueFd connect_from(const sockaddr_in& source, const sockaddr_in& server) {
  UniqueFd socket(::socket(AF_INET, SOCK_STREAM, 0));
  need(socket.get() >= 0, "socket");
  do_not_pace(socket.get());
  set_option(socket.get(), IPPROTO_TCP, TCP_NODELAY, 1);
  need(::bind(socket.get(), generic(source), sizeof(source)) == 0, "bind");
  need(::connect(socket.get(), generic(server), sizeof(server)) == 0, "connect");
  return socket;
}

void exchange(int socket) {
  char byte = 'r';
  need(::send(socket, &byte, 1, 0) == 1 && ::recv(socket, &byte, 1, 0) == 1, "exchange");
}

void round_trips(int socket, std::uint64_t count) {
  std::vector<double> times(count);
  exchange(socket);
  const auto started = Clock::now();
  auto before = started;
  for (double& time : times) {
    exchange(socket);
    const auto after = Clock::now();
    time = std::chrono::duration<double, std::micro>(after - before).count();
    before = after;
  }
  std::ranges::sort(times);
  std::printf("{\"rate\": %.1f, \"p50_us\": %.3f}\n",
              static_cast<double>(count) / seconds_since(started), times[times.size() / 2]);
}

/// A byte there and back is two packets, with the acknowledgements in them; on all connections at
/// once.
void packets(const std::vector<UniqueFd>& sockets, std::uint64_t count) {
  const UniqueFd poll(::epoll_create1(0));
  need(poll.get() >= 0, "epoll_create1");
  for (const UniqueFd& socket : sockets) {
    exchange(socket.get());
    watch(poll.get(), socket.get(), EPOLLIN, static_cast<std::uint64_t>(socket.get()));
  }
  std::array<epoll_event, kInFlight> events{};
  const std::uint64_t exchanges = count / 2;
  std::uint64_t sent = 0;
  std::uint64_t done = 0;
  const auto started = Clock::now();
  for (const UniqueFd& socket : sockets) {
    need(::send(socket.get(), "r", 1, 0) == 1, "send");
    ++sent;
  }
  while (done < sent) {
    for (const epoll_event& event : wait(poll.get(), events)) {
      const int socket = static_cast<int>(event.data.u64);
      char byte = 0;
      need(::recv(socket, &byte, 1, 0) == 1, "answer");
      ++done;
      if (sent < exchanges) {
        need(::send(socket, &byte, 1, 0) == 1, "send");
        ++sent;
      }
    }
  }
  print_rate(2 * static_cast<double>(done), seconds_since(started));
}

void stream(int socket, std::uint64_t mib) {
  const std::vector<char> chunk(kStreamChunk, 's');
  const std::uint64_t bytes = mib << 20U;
  std::uint64_t done = 0;
  std::uint64_t warm = 0;
  // The window opens first.
  while (warm < kStreamWarmUp) {
    const ssize_t sent = ::send(socket, chunk.data(), chunk.size(), 0);
    need(sent > 0, "send");
    warm += static_cast<std::uint64_t>(sent);
  }
  const auto started = Clock::now();
  while (done < bytes) {
    const ssize_t sent = ::send(socket, chunk.data(), chunk.size(), 0);
    need(sent > 0, "send");
    done += static_cast<std::uint64_t>(sent);
  }
  const double seconds = seconds_since(started);
  // Until the other end has read all of it.
  char byte = 0;
  need(::shutdown(socket, SHUT_WR) == 0 && ::recv(socket, &byte, 1, 0) == 0, "end of the stream");
  print_rate(static_cast<double>(done) * 8 / 1e6, seconds);
}

// --- The caller ----------------------------------------------------------------------------------

/// Sockets made from now on are of the namespace with this name.
void enter(const std::string& name) {
  static std::map<std::string, UniqueFd> known;
  auto at = known.find(name);
  if (at == known.end()) {
    at = known.emplace(name, UniqueFd(::open(("/run/netns/" + name).c_str(), O_RDONLY | O_CLOEXEC)))
             .first;
    need(at->second.get() >= 0, name.c_str());
  }
  need(::setns(at->second.get(), CLONE_NEWNET) == 0, name.c_str());
}

/// Connections from the namespace, opened once.
const std::vector<UniqueFd>& kept(const std::string& name, const sockaddr_in& source,
                                  const sockaddr_in& server) {
  static std::map<std::string, std::vector<UniqueFd>> known;
  std::vector<UniqueFd>& sockets = known[name];
  while (sockets.size() < kInFlight) {
    sockets.push_back(connect_from(source, server));
  }
  return sockets;
}

std::vector<sockaddr_in> addresses(const std::string& texts, std::uint32_t port) {
  std::vector<sockaddr_in> made;
  std::istringstream list(texts);
  for (std::string each; std::getline(list, each, ',');) {
    made.push_back(address(each, port));
  }
  errno = EINVAL;
  need(!made.empty(), "no addresses");
  return made;
}

void call(const std::string& line) {
  std::istringstream words(line);
  std::string what;
  std::string name;
  std::string to;
  std::string from;
  std::uint64_t count = 0;
  std::uint64_t first = 0;
  std::uint32_t port = 0;
  errno = EINVAL;
  need(static_cast<bool>(words >> what >> name >> count >> port >> to >> from) && count > 0,
       line.c_str());
  words >> first;
  enter(name);
  const std::vector<sockaddr_in> servers = addresses(to, port);
  const std::vector<sockaddr_in> sources = addresses(from, 0);
  if (what == "connections" || what == "resets") {
    Rate(servers, what == "resets", count, first, sources).run();
  } else if (what == "packets") {
    packets(kept(name, sources.front(), servers.front()), count);
  } else if (what == "round-trips") {
    round_trips(kept(name, sources.front(), servers.front()).front().get(), count);
  } else if (what == "stream") {
    stream(connect_from(sources.front(), servers.front()).get(), count);
  } else {
    need(false, line.c_str());
  }
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  const auto number = [&](std::size_t at) { return std::strtoul(words[at].c_str(), nullptr, 10); };
  if (words.size() == 3 && words[1] == "serve") {
    come_first_on(number(0));
    serve(static_cast<std::uint32_t>(number(2)));
  } else if (words.size() == 2 && words[1] == "call") {
    come_first_on(number(0));
    for (std::string line; std::getline(std::cin, line);) {
      call(line);
    }
  } else {
    std::fprintf(stderr, "usage: see the head of traffic_load.cc\n");
    return 2;
  }
  return 0;
}
