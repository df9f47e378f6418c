// SPDX-License-Identifier: Apache-2.0
// From the maps of one layout or size to those of another, while traffic passes.
//
// The old programs serve from the old maps until they are replaced. A migration goes in three
// steps, each over all maps that are not the same in both sets:
//
//   copy      everything; nobody uses the new maps yet
//   catch up  what packets have changed since, right before the programs are replaced
//   settle    after that: what the old programs have done between
//
// What only user space writes is copied once. Of the tables that packets write, a migration notes
// what it has written (16 bytes an entry, as hashes), so that it can tell later which side changed
// an entry: what only the old side changed is written again, what the new side has is left alone.
// To counters the difference is added. One thread.
#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace fairlead::bpf {

class Migration {
 public:
  /// Between the maps pinned in two directories. One that is in both needs nothing, and one that
  /// only one side has is left alone. Layouts are read from the maps' BTF, for which the kernel
  /// wants CAP_SYS_ADMIN. An error names the map, and what about it cannot be taken over.
  [[nodiscard]] static Result<Migration> between(const std::string& from, const std::string& to);
  Migration(const Migration&) = delete;
  Migration& operator=(const Migration&) = delete;
  Migration(Migration&&) noexcept;
  Migration& operator=(Migration&&) noexcept;
  ~Migration();

  [[nodiscard]] Status copy();
  // Without `copy`, after a process that has done it was killed, `catch_up` does nothing, and
  // `settle` leaves what is in both tables as the later packet has left it, and counters as they
  // are.
  [[nodiscard]] Status catch_up();
  [[nodiscard]] Status settle();

  /// The kernel's numbers of the maps on either side.
  [[nodiscard]] std::set<std::uint32_t> old_maps() const;
  [[nodiscard]] std::set<std::uint32_t> new_maps() const;

 private:
  class Moved;
  class MovedArray;
  class MovedCpus;
  class MovedHash;
  explicit Migration(std::vector<std::unique_ptr<Moved>> moved);
  std::vector<std::unique_ptr<Moved>> moved_;
  bool has_copied_ = false;
};

struct LoadedProgram {
  std::string name;
  UniqueFd fd;
};
struct ProgramInfo {
  std::string name;
  std::set<std::uint32_t> maps;  // that it uses: the kernel's numbers
};
[[nodiscard]] Result<ProgramInfo> info_of(const UniqueFd& program);
/// The kernel's programs that use one of these maps. Wants CAP_SYS_ADMIN.
[[nodiscard]] Result<std::vector<LoadedProgram>> programs_with(const std::set<std::uint32_t>& maps);

}  // namespace fairlead::bpf
