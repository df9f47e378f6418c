// SPDX-License-Identifier: Apache-2.0
// The two ends of the traffic whose way is measured (tests/bench/traffic).
//
//   traffic_load CPU serve PORT
//   traffic_load CPU rate       ADDRESS[,ADDRESS...] PORT SECONDS close|reset FIRST SOURCE...
//   traffic_load CPU round-trip ADDRESS PORT SECONDS SOURCE
//   traffic_load CPU packets    ADDRESS PORT SECONDS SOURCE
//   traffic_load CPU stream     ADDRESS PORT SECONDS SOURCE
//
// It runs on the given CPU, and before what else the machine has to do.
// A server sends back what it gets; what begins with 's' it reads and forgets. A client prints one
// JSON object.
#include <algorithm>
#include <arpa/inet.h>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <sstream>
#include <string>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include <utility>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

// Both processors have something to do at every moment, so that a packet's cost shows in the rate.
constexpr std::size_t kInFlight = 32;
// Ports that the measured connections come from: each (source, port) once before any comes again.
constexpr std::uint32_t kFirstPort = 1024;
constexpr std::uint32_t kPorts = 64'000;
constexpr std::size_t kStreamChunk = std::size_t{256} * 1024;

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

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

Clock::duration duration_of(const std::string& seconds) {
  return std::chrono::duration_cast<Clock::duration>(
      std::chrono::duration<double>(std::strtod(seconds.c_str(), nullptr)));
}

void watch(int poll, int socket, std::uint32_t events, std::uint64_t tag) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = tag;
  need(::epoll_ctl(poll, EPOLL_CTL_ADD, socket, &event) == 0, "epoll_ctl");
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

// --- Rate of connections -------------------------------------------------------------------------

/// Connects, sends a byte, gets it back, closes; kInFlight at a time.
class Rate {
 public:
  Rate(std::vector<sockaddr_in> servers, bool resets, std::uint64_t first,
       const std::vector<std::string>& sources)
      : servers_(std::move(servers)),
        resets_(resets),
        next_(first),
        first_(first),
        poll_(::epoll_create1(0)) {
    need(poll_ >= 0, "epoll_create1");
    for (const std::string& source : sources) {
      sources_.push_back(address(source, 0));
    }
  }

  void run(Clock::duration duration) {
    const auto started = Clock::now();
    for (std::size_t slot = 0; slot < kInFlight; ++slot) {
      open(slot);
    }
    std::array<epoll_event, kInFlight> events{};
    double seconds = 0;
    while (seconds < std::chrono::duration<double>(duration).count()) {
      // A second of silence: something was lost, and the rate would tell of a timer.
      const int count = ::epoll_wait(poll_, events.data(), static_cast<int>(events.size()), 1000);
      errno = ETIMEDOUT;
      need(count > 0, "no answer");
      for (int i = 0; i < count; ++i) {
        go_on(events.at(static_cast<std::size_t>(i)).data.u64);
      }
      seconds = seconds_since(started);
    }
    std::printf("{\"connections\": %llu, \"tries\": %llu, \"seconds\": %.6f, \"rate\": %.1f}\n",
                static_cast<unsigned long long>(done_),
                static_cast<unsigned long long>(next_ - first_), seconds,
                static_cast<double>(done_) / seconds);
  }

 private:
  void open(std::size_t slot) {
    const int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    need(socket >= 0, "socket");
    set_option(socket, SOL_SOCKET, SO_REUSEADDR, 1);
    const std::uint64_t number = next_++;
    sockaddr_in source = sources_[(number / kPorts) % sources_.size()];
    source.sin_port = htons(static_cast<std::uint16_t>(kFirstPort + number % kPorts));
    need(::bind(socket, generic(source), sizeof(source)) == 0, "bind");
    if (resets_) {
      const linger now{1, 0};
      need(::setsockopt(socket, SOL_SOCKET, SO_LINGER, &now, sizeof(now)) == 0, "linger");
    }
    const sockaddr_in& server = servers_[number % servers_.size()];
    need(::connect(socket, generic(server), sizeof(server)) == 0 || errno == EINPROGRESS,
         "connect");
    slots_.at(slot) = {socket, false};
    watch(poll_, socket, EPOLLIN | EPOLLOUT | EPOLLET, slot);
  }

  void go_on(std::size_t slot) {
    Slot& at = slots_.at(slot);
    char byte = 'r';
    if (!at.asked) {
      need(::send(at.socket, &byte, 1, MSG_NOSIGNAL) == 1, "connection");
      at.asked = true;
      return;
    }
    const ssize_t got = ::recv(at.socket, &byte, 1, 0);
    if (got < 0 && errno == EAGAIN) {
      return;
    }
    need(got == 1, "answer");
    ::close(at.socket);
    ++done_;
    open(slot);
  }

  struct Slot {
    int socket = -1;
    bool asked = false;
  };

  std::vector<sockaddr_in> servers_;  // in turn
  bool resets_;
  std::uint64_t next_, first_, done_ = 0;
  int poll_;
  std::vector<sockaddr_in> sources_;
  std::array<Slot, kInFlight> slots_{};
};

// --- Connections that stay -----------------------------------------------------------------------

int connect_from(const std::string& source, const sockaddr_in& server) {
  const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
  need(socket >= 0, "socket");
  set_option(socket, IPPROTO_TCP, TCP_NODELAY, 1);
  const sockaddr_in from = address(source, 0);
  need(::bind(socket, generic(from), sizeof(from)) == 0, "bind");
  need(::connect(socket, generic(server), sizeof(server)) == 0, "connect");
  return socket;
}

void round_trip(int socket, Clock::duration duration) {
  std::vector<double> times;
  const auto started = Clock::now();
  for (auto before = started; before - started < duration;) {
    char byte = 'r';
    need(::send(socket, &byte, 1, 0) == 1 && ::recv(socket, &byte, 1, 0) == 1, "exchange");
    const auto after = Clock::now();
    times.push_back(std::chrono::duration<double, std::micro>(after - before).count());
    before = after;
  }
  const double seconds = seconds_since(started);
  std::ranges::sort(times);
  std::printf("{\"exchanges\": %zu, \"rate\": %.1f, \"p50_us\": %.3f, \"p99_us\": %.3f}\n",
              times.size(), static_cast<double>(times.size()) / seconds, times[times.size() / 2],
              times[times.size() * 99 / 100]);
}

/// A byte there and back is two packets, with the acknowledgements in them; kInFlight at a time.
void packets(const std::string& source, const sockaddr_in& server, Clock::duration duration) {
  const int poll = ::epoll_create1(0);
  need(poll >= 0, "epoll_create1");
  for (std::size_t i = 0; i < kInFlight; ++i) {
    const int socket = connect_from(source, server);
    watch(poll, socket, EPOLLIN, static_cast<std::uint64_t>(socket));
    need(::send(socket, "r", 1, 0) == 1, "send");
  }
  std::array<epoll_event, kInFlight> events{};
  std::uint64_t exchanges = 0;
  const auto started = Clock::now();
  while (Clock::now() - started < duration) {
    const int count = ::epoll_wait(poll, events.data(), static_cast<int>(events.size()), 1000);
    errno = ETIMEDOUT;
    need(count > 0, "no answer");
    for (int i = 0; i < count; ++i) {
      const int socket = static_cast<int>(events.at(static_cast<std::size_t>(i)).data.u64);
      char byte = 0;
      need(::recv(socket, &byte, 1, 0) == 1 && ::send(socket, &byte, 1, 0) == 1, "exchange");
      ++exchanges;
    }
  }
  const double seconds = seconds_since(started);
  std::printf("{\"exchanges\": %llu, \"seconds\": %.6f, \"rate\": %.1f}\n",
              static_cast<unsigned long long>(exchanges), seconds,
              2 * static_cast<double>(exchanges) / seconds);
}

void stream(int socket, Clock::duration duration) {
  const std::vector<char> chunk(kStreamChunk, 's');
  std::uint64_t bytes = 0;
  const auto started = Clock::now();
  while (Clock::now() - started < duration) {
    const ssize_t sent = ::send(socket, chunk.data(), chunk.size(), 0);
    need(sent > 0, "send");
    bytes += static_cast<std::uint64_t>(sent);
  }
  // Until the other end has read all of it.
  char byte = 0;
  need(::shutdown(socket, SHUT_WR) == 0 && ::recv(socket, &byte, 1, 0) == 0, "end of the stream");
  const double seconds = seconds_since(started);
  std::printf("{\"bytes\": %llu, \"seconds\": %.6f, \"rate\": %.1f}\n",
              static_cast<unsigned long long>(bytes), seconds,
              static_cast<double>(bytes) * 8 / 1e6 / seconds);
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> words(argv + 1, argv + argc);
  const auto number = [](const std::string& word) {
    return std::strtoul(word.c_str(), nullptr, 10);
  };
  if (words.size() > 1) {
    come_first_on(number(words.front()));
    words.erase(words.begin());
  }
  const auto port = [&](std::size_t at) { return static_cast<std::uint32_t>(number(words[at])); };
  if (words.size() == 2 && words[0] == "serve") {
    serve(port(1));
  } else if (words.size() >= 7 && words[0] == "rate") {
    std::vector<sockaddr_in> servers;
    std::istringstream list(words[1]);
    for (std::string each; std::getline(list, each, ',');) {
      servers.push_back(address(each, port(2)));
    }
    Rate rate(std::move(servers), words[4] == "reset", number(words[5]),
              {words.begin() + 6, words.end()});
    rate.run(duration_of(words[3]));
  } else if (words.size() == 5 && words[0] == "round-trip") {
    round_trip(connect_from(words[4], address(words[1], port(2))), duration_of(words[3]));
  } else if (words.size() == 5 && words[0] == "packets") {
    packets(words[4], address(words[1], port(2)), duration_of(words[3]));
  } else if (words.size() == 5 && words[0] == "stream") {
    stream(connect_from(words[4], address(words[1], port(2))), duration_of(words[3]));
  } else {
    std::fprintf(stderr, "usage: see the head of traffic_load.cc\n");
    return 2;
  }
  return 0;
}
