// SPDX-License-Identifier: Apache-2.0
#include "base/subprocess.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <fcntl.h>
#include <optional>
#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utility>

#include "base/check.h"
#include "base/text.h"
#include "base/unique_fd.h"

namespace fairlead {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kErrorTextLimit = 4096;

/// Both ends close-on-exec; ours does not block.
struct Channel {
  UniqueFd ours;
  UniqueFd theirs;
};

// Sockets, not pipes: a write to a program that does not read any more can then be told to give
// EPIPE instead of a signal that would end the whole daemon.
Result<Channel> open_channel() {
  std::array<int, 2> fds{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds.data()) != 0) {
    return fail_errno(errno, "socketpair");
  }
  Channel channel{UniqueFd(fds[0]), UniqueFd(fds[1])};
  if (::fcntl(channel.ours.get(), F_SETFL, O_NONBLOCK) != 0) {
    return fail_errno(errno, "fcntl");
  }
  return channel;
}

// By number: some versions of the C library declare pidfd_open() without C linkage.
int open_pidfd(pid_t pid) { return static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)); }

/// A started child. If it was not waited for, the destructor kills it and waits, so that none is
/// ever left behind.
class Child {
 public:
  explicit Child(pid_t pid) : pid_(pid), pidfd_(open_pidfd(pid)) {}
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      wait();
    }
  }

  /// Readable once the child has ended; -1 if the kernel has no such descriptors.
  [[nodiscard]] int pidfd() const { return pidfd_.get(); }
  /// Wait status, or nullopt if somebody else took it (SIGCHLD ignored). Blocks.
  std::optional<int> wait() {
    int status = 0;
    pid_t got = 0;
    do {
      got = ::waitpid(pid_, &status, 0);
    } while (got < 0 && errno == EINTR);
    pid_ = -1;
    return got > 0 ? std::optional(status) : std::nullopt;
  }

 private:
  pid_t pid_;
  UniqueFd pidfd_;
};

class SpawnActions {
 public:
  SpawnActions() { FAIRLEAD_CHECK(::posix_spawn_file_actions_init(&actions_) == 0); }
  SpawnActions(const SpawnActions&) = delete;
  SpawnActions& operator=(const SpawnActions&) = delete;
  ~SpawnActions() { ::posix_spawn_file_actions_destroy(&actions_); }
  void set(const UniqueFd& fd, int number) {
    FAIRLEAD_CHECK(::posix_spawn_file_actions_adddup2(&actions_, fd.get(), number) == 0);
  }
  [[nodiscard]] const posix_spawn_file_actions_t* get() const { return &actions_; }

 private:
  posix_spawn_file_actions_t actions_{};
};

// The child starts with no signal blocked or ignored, whatever the daemon does with its own.
class SpawnAttributes {
 public:
  SpawnAttributes() {
    FAIRLEAD_CHECK(::posix_spawnattr_init(&attributes_) == 0);
    sigset_t none;
    ::sigemptyset(&none);
    sigset_t all;
    ::sigfillset(&all);
    ::posix_spawnattr_setsigmask(&attributes_, &none);
    ::posix_spawnattr_setsigdefault(&attributes_, &all);
    ::posix_spawnattr_setflags(&attributes_, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  }
  SpawnAttributes(const SpawnAttributes&) = delete;
  SpawnAttributes& operator=(const SpawnAttributes&) = delete;
  ~SpawnAttributes() { ::posix_spawnattr_destroy(&attributes_); }
  [[nodiscard]] const posix_spawnattr_t* get() const { return &attributes_; }

 private:
  posix_spawnattr_t attributes_{};
};

Result<pid_t> spawn(const std::vector<std::string>& argv, const SpawnActions& actions) {
  const SpawnAttributes attributes;
  std::vector<std::string> copies(argv);  // execve wants them writable
  std::vector<char*> pointers;
  pointers.reserve(copies.size() + 1);
  for (std::string& argument : copies) {
    pointers.push_back(argument.data());
  }
  pointers.push_back(nullptr);
  pid_t pid = 0;
  const int error = ::posix_spawnp(&pid, pointers.front(), actions.get(), attributes.get(),
                                   pointers.data(), environ);
  if (error == ENOENT) {
    return fail(ErrorKind::kUnavailable, "no program \"" + argv.front() + "\" in PATH");
  }
  if (error != 0) {
    return fail_errno(error, "start " + argv.front());
  }
  return pid;
}

/// Reads what is there; closes `fd` at the end of the stream.
void read_some(UniqueFd& fd, std::string& into) {
  std::array<char, 16384> buffer;
  for (;;) {
    const ssize_t got = ::read(fd.get(), buffer.data(), buffer.size());
    if (got > 0) {
      into.append(buffer.data(), static_cast<std::size_t>(got));
    } else if (got < 0 && errno == EINTR) {
      continue;
    } else {
      if (got == 0 || errno != EAGAIN) {
        fd.reset();
      }
      return;
    }
  }
}

void write_some(UniqueFd& fd, std::string_view& rest) {
  while (!rest.empty()) {
    const ssize_t sent = ::send(fd.get(), rest.data(), rest.size(), MSG_NOSIGNAL);
    if (sent > 0) {
      rest.remove_prefix(static_cast<std::size_t>(sent));
    } else if (sent < 0 && errno == EINTR) {
      continue;
    } else {
      if (sent < 0 && errno == EAGAIN) {
        return;
      }
      break;  // it does not read any more; its status says whether that is a failure
    }
  }
  fd.reset();  // end of its input
}

struct Streams {
  UniqueFd input;
  UniqueFd output;
  UniqueFd error;
  std::string_view unsent;
  std::string output_text;
  std::string error_text;
};

/// Moves bytes until the program has ended, or closed its outputs where the kernel has no pidfd.
/// False at the deadline.
bool pump(Streams& streams, int pidfd, Clock::time_point end) {
  for (;;) {
    if (streams.input) {
      write_some(streams.input, streams.unsent);
    }
    std::array<pollfd, 4> polled = {{{pidfd, POLLIN, 0},
                                     {streams.output.get(), POLLIN, 0},
                                     {streams.error.get(), POLLIN, 0},
                                     {streams.input.get(), POLLOUT, 0}}};
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - Clock::now());
    if (left.count() <= 0) {
      return false;
    }
    const auto timeout = std::min<std::chrono::milliseconds::rep>(left.count(), 60'000);
    const int ready = ::poll(polled.data(), polled.size(), static_cast<int>(timeout));
    if (ready < 0 && errno != EINTR) {
      return false;
    }
    if (streams.output) {
      read_some(streams.output, streams.output_text);
    }
    if (streams.error) {
      read_some(streams.error, streams.error_text);
    }
    // A descendant may hold the outputs open: the end of the program itself is what counts.
    const bool ended = pidfd >= 0 ? polled[0].revents != 0 : !streams.output && !streams.error;
    if (ended && ready > 0) {
      return true;
    }
  }
}

/// One line, of bounded length.
std::string one_line(std::string_view text) {
  std::string out;
  for (const std::string_view line : split(text.substr(0, kErrorTextLimit), '\n')) {
    const std::string_view trimmed = trim(line);
    if (!trimmed.empty()) {
      out += out.empty() ? "" : "; ";
      out += trimmed;
    }
  }
  return out;
}

std::string ending(std::optional<int> status) {
  if (!status) {
    return "its exit status is lost";
  }
  if (WIFSIGNALED(*status)) {
    return "ended by signal " + std::to_string(WTERMSIG(*status));
  }
  return "exit status " + std::to_string(WEXITSTATUS(*status));
}

}  // namespace

Result<std::string> run_program(const std::vector<std::string>& argv, std::string_view input,
                                std::chrono::milliseconds deadline) {
  FAIRLEAD_CHECK(!argv.empty());
  const std::string command = join(argv, " ");
  const Clock::time_point end = Clock::now() + deadline;
  Result<Channel> in = open_channel();
  Result<Channel> out = open_channel();
  Result<Channel> err = open_channel();
  for (const Result<Channel>* channel : {&in, &out, &err}) {
    if (!*channel) {
      return fail(channel->error().in(command));
    }
  }
  SpawnActions actions;
  actions.set(in->theirs, STDIN_FILENO);
  actions.set(out->theirs, STDOUT_FILENO);
  actions.set(err->theirs, STDERR_FILENO);
  const Result<pid_t> pid = spawn(argv, actions);
  if (!pid) {
    return fail(pid.error());
  }
  Child child(*pid);
  for (Channel* channel : {&*in, &*out, &*err}) {
    channel->theirs.reset();
  }
  Streams streams;
  streams.input = std::move(in->ours);
  streams.output = std::move(out->ours);
  streams.error = std::move(err->ours);
  streams.unsent = input;
  if (!pump(streams, child.pidfd(), end)) {
    return fail(ErrorKind::kTimeout, command + ": not finished within " +
                                         std::to_string(deadline.count()) + " ms, killed");
  }
  const std::optional<int> status = child.wait();
  if (status && WIFEXITED(*status) && WEXITSTATUS(*status) == 0) {
    return std::move(streams.output_text);
  }
  std::string text = command + ": " + ending(status);
  if (const std::string said = one_line(streams.error_text); !said.empty()) {
    text += ": " + said;
  }
  return fail(Error(ErrorKind::kSystem, std::move(text),
                    status && WIFEXITED(*status) ? WEXITSTATUS(*status) : 0));
}

}  // namespace fairlead
