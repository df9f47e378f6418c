// SPDX-License-Identifier: Apache-2.0
// The BPF programs and their maps: loaded into the kernel, the maps pinned below one directory, so
// that they and what they hold outlive the process. One thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/unique_fd.h"

namespace fairlead::bpf {

/// How much there is room for. Where maps of another size are pinned, their entries move into new
/// ones; arrays do not become smaller.
struct Sizes {
  std::uint32_t virtual_servers = 16'384;
  std::uint32_t real_servers = 131'072;
  std::uint32_t slots = 1U << 20U;
  /// Each has two flows, or four if its client is hidden.
  std::uint32_t connections = 262'144;
  std::uint32_t half_open = 65'536;
  std::uint32_t clients = 65'536;
  std::uint32_t fragments = 16'384;
  std::uint32_t sockets = 65'536;
  std::uint32_t devices = 16'384;
};

/// What the programs are loaded with; another load may differ.
struct Options {
  /// Answered connections go straight from device to device.
  bool fast_path = false;
};

/// While maps of another layout or size are taken over there are two sets of them, of which those
/// that need no change are the same maps.
enum class MapSet { kServing, kNext };

/// `DIR/v1/maps` (or `next`), `DIR/v1/links`. The number is that of this scheme.
[[nodiscard]] std::string map_directory(const std::string& pin_directory,
                                        MapSet set = MapSet::kServing);
[[nodiscard]] std::string link_directory(const std::string& pin_directory);

/// Makes the directories; mounts a bpffs on /sys/fs/bpf if the path is below it and none is there.
/// An error if the path is on no bpffs, or the process may not.
[[nodiscard]] Status prepare_directory(const std::string& pin_directory);

/// Whether the directory, or the deepest part of it that exists, is on a bpffs.
[[nodiscard]] bool is_on_bpffs(const std::string& pin_directory);
/// Whether prepare_directory would mount one.
[[nodiscard]] bool can_get_bpffs(const std::string& pin_directory);

/// The right to write to what is pinned there, as long as the descriptor is open: two daemons would
/// give out the same numbers. kUnavailable if another process has it.
[[nodiscard]] Result<UniqueFd> lock_directory(const std::string& pin_directory);

class Object {
 public:
  /// Loads the programs, with the maps pinned in the directory where there are some of this layout
  /// and size, and pins the others. What other ones hold is copied; then `is_taking_over`, and
  /// `catch_up` and `settle` are to be called before and after the programs of the old maps are
  /// replaced. A process that is killed before that has changed nothing for the old programs, and
  /// the next start begins again, or goes on if some are replaced already. What the verifier said
  /// is in the error.
  [[nodiscard]] static Result<Object> load(const std::string& pin_directory, const Sizes& sizes,
                                           const Options& options = {});
  /// Whether this kernel takes the programs: with least maps, nothing pinned.
  [[nodiscard]] static Status try_load();
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;
  Object(Object&&) noexcept;
  Object& operator=(Object&&) noexcept;
  ~Object();

  /// Where the maps of these programs are pinned.
  [[nodiscard]] MapSet maps() const;
  [[nodiscard]] bool is_taking_over() const { return maps() == MapSet::kNext; }
  /// What packets have changed since `load`. From now on our programs hand what they do not know to
  /// those that they replace.
  [[nodiscard]] Status catch_up();
  /// All programs have been replaced. The old maps are gone afterwards, and ours are kServing.
  [[nodiscard]] Status settle();

  /// Valid as long as the object lives.
  [[nodiscard]] int program(std::string_view name) const;
  /// Of a map that is not pinned, too.
  [[nodiscard]] int map(std::string_view name) const;

 private:
  struct Impl;
  explicit Object(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// A pinned map. kNotFound if it is not there.
[[nodiscard]] Result<UniqueFd> open_map(const std::string& pin_directory, const std::string& name,
                                        MapSet set = MapSet::kServing);

/// Takes the program of a pinned link out of the way at once, and removes the pin; the kernel lets
/// go of a link some time after its pin. What is gone already is success.
[[nodiscard]] Status remove_link(const std::string& path);

/// Removes links first (traffic falls to the stack), then maps, all of them below the directory and
/// nothing else. What is gone already is success.
[[nodiscard]] Status remove_pins(const std::string& pin_directory);

}  // namespace fairlead::bpf
