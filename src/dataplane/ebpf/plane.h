// SPDX-License-Identifier: Apache-2.0
// The `ebpf` data plane: the plan as entries of the maps from which our own BPF programs work
// (bpf/abi.h). It decides nothing about a packet; it keeps the maps as the plan wants them, drains
// what leaves, and sweeps connections that have ended.
//
// One engine, as in the ipvs plane: for each key the wanted state against what the maps hold. The
// maps are pinned and outlive the process; at start they are read back, and the first delta changes
// only what differs.
//
// Order within a key: real servers and the block of slots are written before the descriptor that
// publishes them, and that before the entry in `numbers` by which packets find the virtual server.
// Removal goes the other way round.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "bpf/devices.h"
#include "bpf/tables.h"
#include "dataplane/data_plane.h"
#include "dataplane/ebpf/extents.h"
#include "dataplane/ebpf/scheduling.h"
#include "dataplane/ebpf/sweep.h"
#include "dataplane/ebpf/timeouts.h"
#include "dataplane/retry.h"

namespace fairlead::dataplane::ebpf {

/// The node: its devices, and the programs on them. On the kernel host.h, in tests a fake.
class Host {
 public:
  Host() = default;
  Host(const Host&) = delete;
  Host& operator=(const Host&) = delete;
  virtual ~Host() = default;

  /// Loads the programs and opens their maps. An error means that the mode cannot work.
  [[nodiscard]] virtual Result<std::unique_ptr<bpf::Tables>> open() = 0;
  /// Where the maps follow those of another layout or size, replaces the programs that go by those.
  /// Called once, when the maps hold what an earlier process of this layout would have left.
  [[nodiscard]] virtual Status take_over() = 0;
  /// Looks at the devices, puts the programs on those that are new, and takes them off those that
  /// are not chosen any more, by whichever process they got them; `thorough`: puts them on all,
  /// also if they should be there. What failed is in `failures`, by device, and did not stop the
  /// others.
  [[nodiscard]] virtual Result<std::vector<bpf::Device>> attach(
      bool thorough, std::map<std::string, std::string>& failures) = 0;
  /// The socket path. Called once the maps hold the whole plan, and by the audit.
  [[nodiscard]] virtual Status attach_sockets() = 0;
  /// Closes the node's UDP sockets that are connected to one of `servers` (whatever port) and for
  /// which `is_stale` is true; tells how many. kUnavailable if the kernel cannot.
  using IsStale = std::function<bool(std::uint64_t cookie, const net::SocketAddress& remote)>;
  [[nodiscard]] virtual Result<std::size_t> close_udp_sockets(
      const std::set<net::IpAddress>& servers, const IsStale& is_stale) = 0;
  /// Called on the plane's thread when devices or addresses changed.
  virtual void set_on_change(std::function<void(TimePoint)> on_change) = 0;
};

struct PlaneConfig {
  /// What counts as a pod by its address.
  std::vector<net::IpPrefix> pods;
  std::chrono::seconds drain_timeout{900};
  Timeouts timeouts;
  bpf::fl_sockets sockets = bpf::FL_SOCKETS_OFF;
  std::uint64_t netns_cookie = 0;
  std::chrono::seconds audit_period{30};
};

class Plane final : public DataPlane {
 public:
  Plane(std::unique_ptr<Host> host, PlaneConfig config);

  [[nodiscard]] Status start(TimePoint now) override;
  void apply(const plan::Delta& delta, TimePoint now) override;
  void run_due(TimePoint now) override;
  [[nodiscard]] std::optional<TimePoint> next_due() const override;
  [[nodiscard]] Summary summary() const override;

 private:
  using Key = plan::VirtualServerKey;

  /// A real server in the walk.
  struct Real {
    std::uint32_t number = 0;
    net::SocketAddress socket;
    bool is_leaving = false;  // draining, or gone and not forgotten yet
    TimePoint deadline{};
  };
  /// One of the sets that the client classes are served from, as it is published.
  struct Set {
    std::vector<Member> walk;
    Block block;
    std::uint32_t base = 0;  // its extent; 0: none
    std::uint8_t generation = 0;
  };
  struct Entry {
    plan::VirtualServerPtr desired;  // null: to be removed
    std::uint32_t number = 0;        // 0: not in the maps
    std::optional<bool> is_public;   // has its entry in `numbers`; value: on the node's interface
    std::vector<Real> walk;          // latest added first
    std::array<Set, bpf::FL_CLASSES> sets;
    std::optional<bpf::fl_scheduler> scheduler;
    bool in_run = false;   // of `sync`, where a key named twice is one
    bool changed = false;  // by what has not been counted as an operation yet
    /// As booked in `totals_`.
    std::size_t servers = 0, reals = 0, leaving = 0;
  };

  // plane_start.cc
  void write_config();
  [[nodiscard]] Status write_classes();
  [[nodiscard]] Status adopt();
  void adopt_entry(std::uint32_t number, std::vector<std::uint32_t> reals);
  void adopt_set(Entry& entry, std::size_t index);
  void write_filter();
  void refresh_devices(bool thorough, TimePoint now);
  void audit(TimePoint now);

  // plane.cc
  /// One key in a run of `sync`.
  struct Work {
    const Key& key;
    Entry& entry;
    Status status;
  };
  void sync(std::span<const Key> keys, TimePoint now);
  void conclude(const Work& work, TimePoint now);
  [[nodiscard]] Status put(const Key& key, Entry& entry, TimePoint now);
  void read_packet_events();
  void sweep(TimePoint now);
  void mind_fullness(TimePoint now);
  [[nodiscard]] Status place_servers(Entry& entry, TimePoint now);
  [[nodiscard]] Status publish(const Key& key, Entry& entry, TimePoint now);
  [[nodiscard]] Status publish_set(Entry& entry, std::size_t index, bpf::fl_scheduler scheduler,
                                   std::vector<Member> walk, TimePoint now);
  void make_public(std::span<Work> works);
  [[nodiscard]] Status withdraw(const Key& key, Entry& entry);
  void forget(const Key& key, Entry& entry, TimePoint now);

  // real servers
  [[nodiscard]] Status add_server(Entry& entry, const plan::RealServer& server);
  void retire(const Entry& entry, Real& real, TimePoint now);
  void free_real(const Real& real);
  /// Lets go of what has left; the entry may be gone afterwards.
  void settle_leaving(const Key& key, TimePoint now);
  void check_leaving(TimePoint now);
  void book(Entry& entry);

  void close_sockets(TimePoint now);
  [[nodiscard]] bool is_stale(std::uint64_t cookie, const net::SocketAddress& remote);

  [[nodiscard]] Status release_address(const net::IpAddress& address);
  void note(bpf::fl_point point, const bpf::fl_addr& address, int change);

  std::unique_ptr<Host> host_;
  PlaneConfig config_;
  std::unique_ptr<bpf::Tables> tables_;
  std::unique_ptr<Sweep> sweep_;
  Patience patience_;
  bool synced_ = false;

  std::unordered_map<Key, Entry> entries_;
  // Numbers not in use; the next one at the end.
  std::vector<std::uint32_t> free_servers_;
  std::deque<std::uint32_t> free_reals_;
  std::unique_ptr<Extents> extents_;
  std::set<Key> leaving_;                                      // keys with real servers that leave
  std::unordered_map<net::IpAddress, std::uint32_t> claimed_;  // by so many virtual servers
  std::array<std::vector<std::uint32_t>, 2> filter_counts_;
  std::vector<bpf::DeviceEntry> devices_;
  std::map<std::string, std::string> device_failures_;

  std::map<Key, Retry> retries_;
  /// What a virtual server asks for and does not get.
  std::map<Key, std::string> problems_;
  std::map<std::string, Retry> furniture_;  // "devices", "sockets"
  std::set<net::IpAddress> left_;  // by UDP servers, and sockets may still be connected to them
  bool can_close_sockets_ = true;
  TimePoint next_leaving_{}, next_sockets_{}, next_sweep_{}, next_audit_{};
  TimePoint last_pass_{};
  std::uint64_t operations_ = 0, operation_errors_ = 0;
  std::map<std::string, std::uint64_t, std::less<>> drift_;
  std::map<std::string, std::uint64_t, std::less<>> packet_events_;  // as of the last pass
  struct {
    std::size_t servers = 0, reals = 0, leaving = 0;
  } totals_;
};

}  // namespace fairlead::dataplane::ebpf
