// SPDX-License-Identifier: Apache-2.0
#include "metrics/process.h"

#include <array>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <string_view>
#include <sys/resource.h>
#include <system_error>
#include <unistd.h>
#include <vector>

#include "base/text.h"

namespace fairlead::metrics {
namespace {

void append(std::string& out, std::string_view name, std::string_view type, std::string_view help,
            const std::string& value) {
  out.append("# HELP ").append(name).append(" ").append(help).append("\n# TYPE ");
  out.append(name).append(" ").append(type).append("\n");
  out.append(name).append(" ").append(value).append("\n");
}

std::string read_file(const char* path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::optional<std::uint64_t> number_at(const std::vector<std::string_view>& words,
                                       std::size_t index) {
  return index < words.size() ? parse_number(words[index], UINT64_MAX) : std::nullopt;
}

/// Unix seconds at which the machine started.
std::optional<std::uint64_t> boot_time() {
  const std::string stat = read_file("/proc/stat");
  constexpr std::string_view kKey = "\nbtime ";
  const std::size_t at = stat.find(kKey);
  if (at == std::string::npos) {
    return std::nullopt;
  }
  const std::string_view rest = std::string_view(stat).substr(at + kKey.size());
  return parse_number(rest.substr(0, rest.find('\n')), UINT64_MAX);
}

std::optional<std::size_t> count_open_files() {
  std::error_code error;
  std::size_t count = 0;
  for (auto entry = std::filesystem::directory_iterator("/proc/self/fd", error);
       !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    ++count;
  }
  return error ? std::nullopt : std::optional(count);
}

}  // namespace

std::string process_text() {
  std::string out;
  const std::string stat = read_file("/proc/self/stat");
  // The command's name, in parentheses, may hold anything; the third word follows it.
  const std::size_t name_end = stat.rfind(')');
  if (name_end != std::string::npos && name_end + 2 < stat.size()) {
    const auto words = split(std::string_view(stat).substr(name_end + 2), ' ');
    const auto word = [&](std::size_t number) { return number_at(words, number - 3); };
    const auto ticks_per_second = static_cast<std::uint64_t>(::sysconf(_SC_CLK_TCK));
    const auto page_size = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
    if (const auto user = word(14), system = word(15); user && system) {
      const auto hundredths = (*user + *system) * 100 / ticks_per_second;
      std::string fraction = std::to_string(hundredths % 100);
      fraction.insert(0, 2 - fraction.size(), '0');
      append(out, "process_cpu_seconds_total", "counter", "User and system CPU time in seconds.",
             std::to_string(hundredths / 100) + "." + fraction);
    }
    const auto boot = boot_time();
    if (const auto start = word(22); start && boot) {
      append(out, "process_start_time_seconds", "gauge", "Unix time at which the process started.",
             std::to_string(*boot + *start / ticks_per_second));
    }
    if (const auto bytes = word(23)) {
      append(out, "process_virtual_memory_bytes", "gauge", "Virtual memory in bytes.",
             std::to_string(*bytes));
    }
    if (const auto pages = word(24)) {
      append(out, "process_resident_memory_bytes", "gauge", "Resident memory in bytes.",
             std::to_string(*pages * page_size));
    }
  }
  if (const auto count = count_open_files()) {
    append(out, "process_open_fds", "gauge", "Open file descriptors.", std::to_string(*count));
  }
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    append(out, "process_max_fds", "gauge", "Most file descriptors that may be open.",
           std::to_string(limit.rlim_cur));
  }
  return out;
}

}  // namespace fairlead::metrics
