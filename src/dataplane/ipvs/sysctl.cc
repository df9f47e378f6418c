// SPDX-License-Identifier: Apache-2.0
#include "dataplane/ipvs/sysctl.h"

#include <array>
#include <cerrno>
#include <fcntl.h>
#include <unistd.h>
#include <utility>

#include "base/text.h"
#include "base/unique_fd.h"

namespace fairlead::dataplane::ipvs {
namespace {

// Major and minor of "6.1.0-13-amd64"; {0, 0} if it does not look like a release.
std::pair<std::uint64_t, std::uint64_t> version_of(std::string_view release) {
  const auto pieces = split(release, '.');
  if (pieces.size() < 2) {
    return {0, 0};
  }
  const std::size_t digits = pieces[1].find_first_not_of("0123456789");
  return {parse_number(pieces[0], 1000).value_or(0),
          parse_number(pieces[1].substr(0, digits), 100000).value_or(0)};
}

class ProcSysctl : public Sysctl {
 public:
  Result<bool> ensure(const Setting& setting) override {
    const std::string path = "/proc/sys/" + setting.name;
    std::array<char, 128> buffer{};
    {
      const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
      if (!fd) {
        return fail_errno(errno, "read " + path);
      }
      const ssize_t n = ::read(fd.get(), buffer.data(), buffer.size());
      if (n < 0) {
        return fail_errno(errno, "read " + path);
      }
      if (trim({buffer.data(), static_cast<std::size_t>(n)}) == setting.value) {
        return false;
      }
    }
    const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
    if (!fd) {
      return fail_errno(errno, "open " + path + " for writing " + setting.value);
    }
    if (::write(fd.get(), setting.value.data(), setting.value.size()) < 0) {
      return fail_errno(errno, "write " + setting.value + " to " + path);
    }
    return true;
  }
};

}  // namespace

std::vector<Setting> required_settings(std::string_view kernel_release, bool strict_arp) {
  std::vector<Setting> settings = {
      {"net/ipv4/vs/conntrack", "1"},
      {"net/ipv4/vs/expire_nodest_conn", "1"},
      {"net/ipv4/vs/expire_quiescent_template", "1"},
      {"net/ipv4/ip_forward", "1"},
  };
  // Reuse mode 1 delays a reused source port by a second on kernels before 5.9; from 5.9 on the
  // kernel's own default is right.
  const auto version = version_of(kernel_release);
  if (version >= std::pair<std::uint64_t, std::uint64_t>{4, 1} &&
      version < std::pair<std::uint64_t, std::uint64_t>{5, 9}) {
    settings.push_back({"net/ipv4/vs/conn_reuse_mode", "0"});
  }
  if (strict_arp) {
    settings.push_back({"net/ipv4/conf/all/arp_ignore", "1"});
    settings.push_back({"net/ipv4/conf/all/arp_announce", "2"});
  }
  return settings;
}

std::unique_ptr<Sysctl> make_sysctl() { return std::make_unique<ProcSysctl>(); }

}  // namespace fairlead::dataplane::ipvs
