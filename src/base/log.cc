// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"

#include <memory>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <string>

namespace fairlead::log {
namespace {

// The one process-wide object: a logger has to be reachable from everywhere, and spdlog's own
// registry is one already.
spdlog::logger& logger() {
  static const std::shared_ptr<spdlog::logger> instance = [] {
    auto made = spdlog::stderr_logger_mt("fairlead");
    made->set_pattern("%Y-%m-%dT%H:%M:%S.%eZ %L %v", spdlog::pattern_time_type::utc);
    made->flush_on(spdlog::level::debug);
    return made;
  }();
  return *instance;
}

spdlog::level::level_enum to_spdlog(Level level) {
  switch (level) {
    case Level::kDebug:
      return spdlog::level::debug;
    case Level::kInfo:
      return spdlog::level::info;
    case Level::kWarn:
      return spdlog::level::warn;
    case Level::kError:
      return spdlog::level::err;
  }
  return spdlog::level::err;
}

bool needs_quotes(const std::string& value) {
  return value.empty() || value.find_first_of(" \"\n\t=") != std::string::npos;
}

void append_quoted(std::string& line, const std::string& value) {
  line += '"';
  for (const char c : value) {
    if (c == '\n') {
      line += "\\n";
    } else {
      if (c == '"' || c == '\\') {
        line += '\\';
      }
      line += c;
    }
  }
  line += '"';
}

}  // namespace

void set_level(Level level) { logger().set_level(to_spdlog(level)); }

bool enabled(Level level) { return logger().should_log(to_spdlog(level)); }

void write(Level level, std::string_view message, std::initializer_list<Field> fields) {
  if (!enabled(level)) {
    return;
  }
  std::string line(message);
  for (const Field& field : fields) {
    line += ' ';
    line += field.key;
    line += '=';
    if (needs_quotes(field.value)) {
      append_quoted(line, field.value);
    } else {
      line += field.value;
    }
  }
  logger().log(to_spdlog(level), "{}", line);
}

}  // namespace fairlead::log
