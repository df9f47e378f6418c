// SPDX-License-Identifier: Apache-2.0
#include "dataplane/ebpf/plane.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <netinet/in.h>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "dataplane/ebpf/keys.h"
#include "dataplane/ebpf/listing.h"

namespace fairlead::dataplane::ebpf {
namespace {

constexpr auto kLeavingPeriod = std::chrono::milliseconds(500);
// From the departure of a UDP server to the look for its sockets.
constexpr auto kSocketsDelay = std::chrono::milliseconds(500);
constexpr auto kSocketsRetry = std::chrono::seconds(5);
constexpr auto kSlicePause = std::chrono::milliseconds(20);

// Flags of a scheduler, as kernel IPVS has them.
constexpr std::uint32_t kFallbackFlag = 0x8;
constexpr std::uint32_t kPortFlag = 0x10;

template <typename T>
void store(T& place, T value) {
  std::atomic_ref<T>(place).store(value, std::memory_order_release);
}

bool contains(const plan::RealServers& servers, const net::SocketAddress& socket) {
  return std::ranges::any_of(*servers, [&](const plan::RealServer& server) {
    return server.address == socket.address && server.port == socket.port;
  });
}

/// The real servers of all classes, in plan order and each once.
std::vector<plan::RealServer> all_servers(const plan::VirtualServer& server) {
  std::vector<plan::RealServer> all = *server.classes.front().servers;
  for (const plan::ClassPolicy& policy : server.classes) {
    if (policy.servers == server.classes.front().servers) {
      continue;
    }
    for (const plan::RealServer& real : *policy.servers) {
      if (std::ranges::none_of(all, [&](const plan::RealServer& known) {
            return known.socket() == real.socket();
          })) {
        all.push_back(real);
      }
    }
  }
  return all;
}

bpf::fl_forwarding forwarding_of(plan::Forwarding forwarding) {
  switch (forwarding) {
    case plan::Forwarding::kMasquerade:
      return bpf::FL_MASQUERADE;
    case plan::Forwarding::kDirectRouting:
      return bpf::FL_DIRECT;
    case plan::Forwarding::kTunnel:
      return bpf::FL_TUNNEL;
    case plan::Forwarding::kFullNat:
      return bpf::FL_FULLNAT;
  }
  return bpf::FL_MASQUERADE;
}

bpf::fl_tunnel tunnel_of(plan::TunnelType tunnel) {
  switch (tunnel) {
    case plan::TunnelType::kIpip:
      return bpf::FL_IPIP;
    case plan::TunnelType::kGue:
      return bpf::FL_GUE;
    case plan::TunnelType::kGre:
      return bpf::FL_GRE;
  }
  return bpf::FL_IPIP;
}

/// What may change while the server has connections. The method and the thresholds are for new
/// ones. Returns whether it was otherwise.
bool describe(bpf::fl_rs& place, const plan::RealServer& server) {
  const bpf::fl_rs before = place;
  place.forwarding = static_cast<std::uint8_t>(forwarding_of(server.method.forwarding));
  place.tunnel = static_cast<std::uint8_t>(tunnel_of(server.method.tunnel));
  place.tunnel_port = bpf::to_abi(server.method.tunnel_port);
  place.is_local = server.is_local ? 1 : 0;
  place.upper = server.thresholds.upper;
  place.lower = server.thresholds.lower;
  return std::memcmp(&before, &place, sizeof place) != 0;
}

/// Of the 16-byte form.
std::uint8_t prefix_of(const plan::VirtualServer& server) {
  if (!server.persistence_prefix) {
    return 128;
  }
  return static_cast<std::uint8_t>(*server.persistence_prefix +
                                   (server.key.address.is_v4() ? 96 : 0));
}

}  // namespace

Plane::Plane(std::unique_ptr<Host> host, PlaneConfig config)
    : host_(std::move(host)), config_(std::move(config)) {}

void Plane::apply(const plan::Delta& delta, TimePoint now) {
  std::vector<Key> keys;
  keys.reserve(delta.put.size() + delta.removed.size());
  for (const plan::VirtualServerPtr& server : delta.put) {
    entries_[server->key].desired = server;
    keys.push_back(server->key);
  }
  for (const Key& key : delta.removed) {
    if (const auto at = entries_.find(key); at != entries_.end()) {
      at->second.desired = nullptr;
      keys.push_back(key);
    }
  }
  if (!synced_) {
    // The first delta is the whole plan: what the maps hold beyond it has to go.
    keys.clear();
    for (const auto& [key, entry] : entries_) {
      keys.push_back(key);
    }
    std::ranges::sort(keys);
  }
  sync(keys, now);
  if (!std::exchange(synced_, true)) {
    next_audit_ = now + config_.audit_period;
    next_sweep_ = now + patience_.pause();
    last_pass_ = now;
    if (const Status status = host_->attach_sockets(); !status) {
      log::error("sockets are not translated", {{"error", status.error().text()}});
      furniture_["sockets"].failed(status.error().text(), now, 0);
    }
  }
}

void Plane::sync(std::span<const Key> keys, TimePoint now) {
  std::vector<Work> works;
  works.reserve(keys.size());
  for (const Key& key : keys) {
    const auto at = entries_.find(key);
    if (at != entries_.end() && !std::exchange(at->second.in_run, true)) {
      works.push_back({key, at->second, {}});
    }
  }
  for (Work& work : works) {
    if (work.entry.desired != nullptr) {
      work.status = put(work.key, work.entry, now);
    }
  }
  make_public(works);
  // After those that may take over an address.
  for (Work& work : works) {
    if (work.entry.desired == nullptr) {
      work.status = withdraw(work.key, work.entry);
    }
  }
  for (const Work& work : works) {
    conclude(work, now);
  }
}

/// The entry may be gone afterwards.
void Plane::conclude(const Work& work, TimePoint now) {
  const auto& [key, entry, status] = work;
  entry.in_run = false;
  if (status) {
    retries_.erase(key);
    operations_ += std::exchange(entry.changed, false) ? 1U : 0U;
  } else {
    ++operation_errors_;
    Retry& retry = retries_[key];
    if (retry.error != status.error().text()) {
      log::warn("a virtual server could not be programmed",
                {{"server", key.text()}, {"error", status.error().text()}});
    }
    retry.failed(status.error().text(), now, std::hash<Key>{}(key));
  }
  if (entry.desired == nullptr) {
    problems_.erase(key);
    for (Real& real : entry.walk) {
      retire(entry, real, now);
    }
  }
  settle_leaving(key, now);
}

Status Plane::put(const Key& key, Entry& entry, TimePoint now) {
  if (entry.number == 0) {
    if (free_servers_.empty()) {
      return fail(ErrorKind::kUnavailable, "no room for another virtual server (map vs)");
    }
    entry.number = free_servers_.back();
    free_servers_.pop_back();
    tables_->vs()[entry.number] = {};
    tables_->vs_counts()[entry.number] = {};
    note(bpf::FL_INGRESS, key_of(key).addr, 1);
  }
  // Whatever is done to its real servers and sets shows here: a set is published anew under another
  // number.
  const bpf::fl_vs before = tables_->vs()[entry.number];
  if (Status status = place_servers(entry, now); !status) {
    return status;
  }
  if (Status status = publish(key, entry, now); !status) {
    return status;
  }
  entry.changed |= std::memcmp(&before, &tables_->vs()[entry.number], sizeof before) != 0;
  return {};
}

/// Real servers into the walk: kept ones at their places, new ones at the head one after another as
/// the kernel would have it. Nothing is published yet.
Status Plane::place_servers(Entry& entry, TimePoint now) {
  const std::vector<plan::RealServer> wanted = all_servers(*entry.desired);
  for (const plan::RealServer& server : wanted) {
    const auto real = std::ranges::find(entry.walk, server.socket(), &Real::socket);
    if (real == entry.walk.end()) {
      if (Status status = add_server(entry, server); !status) {
        return status;
      }
      continue;
    }
    bpf::fl_rs& place = tables_->rs()[real->number];
    if (real->is_leaving) {
      real->is_leaving = false;
      store(place.state, std::uint8_t{bpf::FL_RS_UP});
    }
    if (place.weight != server.weight) {
      store(place.weight, server.weight);
    }
    if (server.weight > 0) {
      place.last_weight = server.weight;
    }
    const std::uint32_t upper = place.upper;
    entry.changed |= describe(place, server);
    if (place.upper == 0 || place.upper > upper) {
      store(tables_->rs_counts()[real->number].overloaded, __u32{0});  // as the kernel does
    }
  }
  for (Real& real : entry.walk) {
    if (std::ranges::none_of(wanted, [&](const plan::RealServer& server) {
          return server.socket() == real.socket;
        })) {
      retire(entry, real, now);
    }
  }
  for (std::size_t i = 0; i < entry.walk.size(); ++i) {
    tables_->rs()[entry.walk[i].number].position = static_cast<std::uint32_t>(i);
  }
  return {};
}

Status Plane::add_server(Entry& entry, const plan::RealServer& server) {
  if (free_reals_.empty()) {
    return fail(ErrorKind::kUnavailable,
                "add real server " + server.socket().text() + ": no room for another (map rs)");
  }
  Real real;
  real.number = free_reals_.back();
  free_reals_.pop_back();
  real.socket = server.socket();
  bpf::fl_rs place{};
  place.addr = bpf::to_abi(server.address);
  place.port = bpf::to_abi(server.port);
  place.state = bpf::FL_RS_UP;
  place.weight = server.weight;
  place.last_weight = server.weight;
  place.generation = tables_->rs()[real.number].generation + 1;
  place.vs = entry.number;
  describe(place, server);
  tables_->rs_counts()[real.number] = {};
  tables_->rs()[real.number] = place;
  note(bpf::FL_EGRESS, place.addr, 1);
  entry.walk.insert(entry.walk.begin(), real);
  return {};
}

/// Blocks and settings of a virtual server. Classes whose sets are equal share one, and its cursor.
Status Plane::publish(const Key& key, Entry& entry, TimePoint now) {
  const plan::VirtualServer& desired = *entry.desired;
  std::optional<bpf::fl_scheduler> scheduler = parse_scheduler(desired.scheduler.name);
  std::string problem;
  if (!scheduler) {
    problem = "the ebpf data plane has no scheduler \"" + desired.scheduler.name +
              "\"; rr is used instead";
    scheduler = bpf::FL_RR;
  }
  if (problem.empty()) {
    problems_.erase(key);
  } else if (std::string& told = problems_[key]; told != problem) {
    log::warn("a virtual server does not get what it asks for",
              {{"server", key.text()}, {"problem", problem}});
    told = std::move(problem);
  }

  bpf::fl_vs next = tables_->vs()[entry.number];
  std::vector<plan::RealServers> distinct;
  for (std::size_t i = 0; i < desired.classes.size(); ++i) {
    const plan::ClassPolicy& policy = desired.classes.at(i);
    auto same = std::ranges::find_if(distinct, [&](const plan::RealServers& servers) {
      return servers == policy.servers || *servers == *policy.servers;
    });
    if (same == distinct.end()) {
      distinct.push_back(policy.servers);
      same = distinct.end() - 1;
    }
    next.class_set[i] = static_cast<std::uint8_t>(same - distinct.begin());
    next.class_flags[i] = static_cast<std::uint8_t>(
        (policy.masquerade ? bpf::FL_CLASS_MASQUERADE : 0) |
        (policy.if_empty == plan::EmptyVerdict::kDrop ? bpf::FL_CLASS_DROP : 0));
  }
  for (std::size_t i = 0; i < distinct.size(); ++i) {
    std::vector<Member> walk;
    for (const Real& real : entry.walk) {
      if (!real.is_leaving && contains(distinct[i], real.socket)) {
        const bpf::fl_rs& place = tables_->rs()[real.number];
        walk.push_back({real.number, real.socket, place.weight, place.last_weight});
      }
    }
    if (Status status = publish_set(entry, i, *scheduler, std::move(walk), now); !status) {
      return status;
    }
  }
  entry.scheduler = scheduler;

  const std::uint32_t flags = desired.scheduler.flags;
  next.flags = static_cast<std::uint8_t>(bpf::FL_VS_USED |
                                         ((flags & kFallbackFlag) != 0 ? bpf::FL_VS_FALLBACK : 0) |
                                         ((flags & kPortFlag) != 0 ? bpf::FL_VS_HASH_PORT : 0) |
                                         (desired.one_packet ? bpf::FL_VS_ONE_PACKET : 0));
  next.persistence =
      desired.persistence ? static_cast<std::uint32_t>(desired.persistence->count()) : 0;
  next.persistence_prefix = prefix_of(desired);
  const bpf::fl_vs_key packed = key_of(key);
  next.addr = packed.addr;
  next.port = packed.port;
  next.protocol = packed.protocol;
  next.kind = static_cast<std::uint32_t>(desired.kind);
  bpf::fl_vs& place = tables_->vs()[entry.number];
  // All but the descriptors and the scheduler, which are out already.
  std::ranges::copy(next.class_set, place.class_set);
  std::ranges::copy(next.class_flags, place.class_flags);
  place.flags = next.flags;
  place.persistence = next.persistence;
  place.persistence_prefix = next.persistence_prefix;
  place.addr = next.addr;
  place.port = next.port;
  place.protocol = next.protocol;
  place.kind = next.kind;
  return {};
}

Status Plane::publish_set(Entry& entry, std::size_t index, bpf::fl_scheduler scheduler,
                          std::vector<Member> walk, TimePoint now) {
  Set& set = entry.sets.at(index);
  bpf::fl_vs& place = tables_->vs()[entry.number];
  std::uint32_t& cursor = tables_->vs_counts()[entry.number].cursor[index];
  const bool same_scheduler = entry.scheduler == scheduler;
  if (same_scheduler && set.walk == walk) {
    return {};
  }
  Former former{set.walk, {}, 0};
  if (same_scheduler) {
    former.block = set.block;
    former.cursor = std::atomic_ref(cursor).load();
  }
  Block block = build_block(scheduler, walk, entry.scheduler ? &former : nullptr);
  const auto length = static_cast<std::uint32_t>(block.slots.size()) + 1;
  std::uint32_t base = 0;
  if (length > 1 || block.header.rs != 0 || block.header.weight != 0) {
    const std::optional<std::uint32_t> room = extents_->take(length, now);
    if (!room) {
      return fail(ErrorKind::kUnavailable,
                  "no room for " + std::to_string(length) + " slots of the scheduler (map slots)");
    }
    base = *room;
    tables_->slots()[base] = block.header;
    std::ranges::copy(block.slots, tables_->slots().subspan(base + 1).begin());
  }
  set.generation = static_cast<std::uint8_t>(set.generation + 1);
  store(cursor, block.cursor);
  place.scheduler = static_cast<std::uint8_t>(scheduler);
  store(place.set[index],
        base == 0 ? __u64{0} : FL_BLOCK(base, block.slots.size(), set.generation));
  if (set.base != 0) {
    extents_->release(set.base, static_cast<std::uint32_t>(set.block.slots.size()) + 1, now);
  }
  set.base = base;
  set.walk = std::move(walk);
  set.block = std::move(block);
  return {};
}

/// Entries of `numbers`, for all that are in order so far: a whole plan takes two calls.
void Plane::make_public(std::span<Work> works) {
  std::vector<bpf::NumberEntry> numbers;
  std::vector<Work*> waiting;
  for (Work& work : works) {
    if (work.status && work.entry.desired != nullptr && !work.entry.is_public) {
      numbers.push_back({key_of(work.key), work.entry.number});
      waiting.push_back(&work);
    }
  }
  std::vector<Status> results = tables_->put_numbers(numbers);
  for (std::size_t i = 0; i < waiting.size(); ++i) {
    waiting[i]->status = std::move(results[i]);
    if (waiting[i]->status) {
      waiting[i]->entry.changed = true;
      waiting[i]->entry.is_public = true;  // as if on the node until the address is claimed
    }
  }

  std::map<net::IpAddress, Status> claims;
  std::vector<Work*> releasing;
  waiting.clear();
  for (Work& work : works) {
    const Entry& entry = work.entry;
    if (!work.status || entry.desired == nullptr ||
        entry.is_public == entry.desired->on_node_interface) {
      continue;
    }
    if (!*entry.is_public) {
      releasing.push_back(&work);
      continue;
    }
    waiting.push_back(&work);
    if (!claimed_.contains(work.key.address)) {
      claims.try_emplace(work.key.address);
    }
  }
  numbers.clear();
  for (const auto& [address, status] : claims) {
    numbers.push_back({key_of(address), FL_VS_REFUSE});
  }
  results = tables_->put_numbers(numbers);
  std::size_t next = 0;
  for (auto& [address, status] : claims) {
    status = std::move(results[next++]);
  }
  for (Work* work : waiting) {
    const auto claim = claims.find(work->key.address);
    if (claim != claims.end() && !claim->second) {
      work->status = claim->second;
      continue;
    }
    ++claimed_[work->key.address];
    work->entry.changed = true;
    work->entry.is_public = false;
  }
  for (Work* work : releasing) {
    work->status = release_address(work->key.address);
    if (work->status) {
      work->entry.changed = true;
      work->entry.is_public = true;
    }
  }
}

Status Plane::withdraw(const Key& key, Entry& entry) {
  if (!entry.is_public) {
    return {};
  }
  const bpf::fl_vs_key packed = key_of(key);
  if (Status status = tables_->erase_numbers(std::span(&packed, 1)).front(); !status) {
    return status;
  }
  if (!*entry.is_public) {
    if (Status status = release_address(key.address); !status) {
      return status;
    }
  }
  entry.changed = true;
  entry.is_public.reset();
  return {};
}

/// The last of a virtual server: nobody finds it and nothing leads to it any more.
void Plane::forget(const Key& key, Entry& entry, TimePoint now) {
  if (entry.number != 0) {
    for (const Set& set : entry.sets) {
      if (set.base != 0) {
        extents_->release(set.base, static_cast<std::uint32_t>(set.block.slots.size()) + 1, now);
      }
    }
    tables_->vs()[entry.number] = {};
    note(bpf::FL_INGRESS, key_of(key).addr, -1);
    free_servers_.push_back(entry.number);
  }
  entries_.erase(key);
}

// --- Real servers that leave ---------------------------------------------------------------------

/// Connections of TCP go on until they end or the deadline passes; those of UDP and SCTP choose
/// another server with their next packet.
void Plane::retire(const Entry& entry, Real& real, TimePoint now) {
  if (std::exchange(real.is_leaving, true)) {
    return;
  }
  const std::uint8_t protocol = tables_->vs()[entry.number].protocol;
  const bool drains = protocol == IPPROTO_TCP || protocol == FL_VS_MARK;
  std::chrono::seconds keep = config_.drain_timeout;
  if (entry.desired != nullptr && entry.desired->drain_timeout) {
    keep = *entry.desired->drain_timeout;
  }
  real.deadline = now + keep;
  tables_->rs()[real.number].drain_until =
      static_cast<std::uint64_t>(real.deadline.time_since_epoch().count());
  store(tables_->rs()[real.number].state,
        static_cast<std::uint8_t>(drains ? bpf::FL_RS_DRAINING : bpf::FL_RS_GONE));
  if (protocol == IPPROTO_UDP && config_.sockets != bpf::FL_SOCKETS_OFF && can_close_sockets_) {
    if (left_.empty()) {
      next_sockets_ = now + kSocketsDelay;
    }
    left_.insert(real.socket.address);
  }
}

void Plane::free_real(const Real& real) {
  bpf::fl_rs& place = tables_->rs()[real.number];
  store(place.state, std::uint8_t{bpf::FL_RS_FREE});
  note(bpf::FL_EGRESS, place.addr, -1);
  ++operations_;
  // At the other end than they are taken from: a number rests as long as there are others.
  free_reals_.push_front(real.number);
}

void Plane::settle_leaving(const Key& key, TimePoint now) {
  Entry& entry = entries_.at(key);
  std::erase_if(entry.walk, [&](const Real& real) {
    if (!real.is_leaving) {
      return false;
    }
    const bpf::fl_rs_counts& counts = tables_->rs_counts()[real.number];
    bpf::fl_rs& place = tables_->rs()[real.number];
    // A client that is bound to it will be bound to another one with its next connection.
    const bool is_idle = counts.active == 0 && counts.inactive == 0;
    if (place.state == bpf::FL_RS_DRAINING && (is_idle || now >= real.deadline)) {
      store(place.state, std::uint8_t{bpf::FL_RS_GONE});
    }
    if (place.state != bpf::FL_RS_GONE || !is_idle) {
      return false;
    }
    free_real(real);
    return true;
  });
  book(entry);
  if (entry.leaving != 0) {
    leaving_.insert(key);
    return;
  }
  leaving_.erase(key);
  if (entry.desired == nullptr && !entry.is_public) {
    forget(key, entry, now);
  }
}

void Plane::check_leaving(TimePoint now) {
  next_leaving_ = now + kLeavingPeriod;
  const std::vector<Key> keys(leaving_.begin(), leaving_.end());
  for (const Key& key : keys) {
    settle_leaving(key, now);
  }
}

// A connected UDP socket is not asked for its server again: it would send to one that left for
// ever, and nobody tells its owner. The look comes a moment after the departure: a connect() that
// had chosen the server is through by then, and what leaves in quick succession costs one dump.
void Plane::close_sockets(TimePoint now) {
  const Result<std::size_t> closed = host_->close_udp_sockets(
      left_, [this](std::uint64_t cookie, const net::SocketAddress& remote) {
        return is_stale(cookie, remote);
      });
  if (closed) {
    if (*closed != 0) {
      log::info("UDP sockets of servers that left are closed", {{"count", *closed}});
    }
    left_.clear();
    return;
  }
  if (closed.error().kind() == ErrorKind::kUnavailable) {
    log::warn("the node's connected UDP sockets go on sending to servers that left",
              {{"error", closed.error().text()}});
    can_close_sockets_ = false;
    left_.clear();
    return;
  }
  log::warn("UDP sockets of servers that left could not be closed",
            {{"error", closed.error().text()}});
  next_sockets_ = now + kSocketsRetry;
}

/// Whether we led the socket there, and its server is no more. It may be a pod's own address that
/// its owner asked for, or the same pod by another service.
bool Plane::is_stale(std::uint64_t cookie, const net::SocketAddress& remote) {
  bpf::fl_socket_key key{};
  key.cookie = cookie;
  key.addr = bpf::to_abi(remote.address);
  key.port = bpf::to_abi(remote.port);
  key.protocol = IPPROTO_UDP;
  const Result<bpf::fl_socket_peer> peer = tables_->find_socket_peer(key);
  if (!peer || peer->rs >= tables_->rs().size()) {
    return false;
  }
  const bpf::fl_rs& real = tables_->rs()[peer->rs];
  return real.generation != peer->generation || real.state == bpf::FL_RS_GONE ||
         real.state == bpf::FL_RS_FREE;
}

void Plane::book(Entry& entry) {
  const auto leaving =
      static_cast<std::size_t>(std::ranges::count_if(entry.walk, &Real::is_leaving));
  const auto move = [](std::size_t& total, std::size_t& booked, std::size_t is) {
    total = total - booked + is;
    booked = is;
  };
  move(totals_.servers, entry.servers, entry.is_public ? 1 : 0);
  move(totals_.reals, entry.reals, entry.walk.size() - leaving);
  move(totals_.leaving, entry.leaving, leaving);
}

// --- Addresses -----------------------------------------------------------------------------------

Status Plane::release_address(const net::IpAddress& address) {
  const auto at = claimed_.find(address);
  FAIRLEAD_CHECK(at != claimed_.end());
  if (at->second == 1) {
    const bpf::fl_vs_key key = key_of(address);
    if (Status status = tables_->erase_numbers(std::span(&key, 1)).front(); !status) {
      return status;
    }
    claimed_.erase(at);
  } else {
    --at->second;
  }
  return {};
}

void Plane::note(bpf::fl_point point, const bpf::fl_addr& address, int change) {
  const std::uint32_t bit = bpf::filter_bit(address);
  std::uint32_t& count = filter_counts_.at(point)[bit];
  const bool was = count != 0;
  count += static_cast<std::uint32_t>(change);
  if (was == (count != 0)) {
    return;
  }
  std::atomic_ref<__u64> word(tables_->filter().bits[point][bit / 64]);
  const std::uint64_t mask = std::uint64_t{1} << (bit % 64);
  if (count != 0) {
    word.fetch_or(mask);
  } else {
    word.fetch_and(~mask);
  }
}

// --- Time ----------------------------------------------------------------------------------------

void Plane::run_due(TimePoint now) {
  if (!synced_) {
    return;
  }
  std::vector<Key> due;
  for (const auto& [key, retry] : retries_) {
    if (retry.next <= now) {
      due.push_back(key);
    }
  }
  sync(due, now);
  if (!leaving_.empty() && now >= next_leaving_) {
    check_leaving(now);
  }
  if (!left_.empty() && now >= next_sockets_) {
    close_sockets(now);
  }
  if (now >= next_sweep_) {
    sweep(now);
  }
  const bool furniture_due =
      std::ranges::any_of(furniture_, [now](const auto& item) { return item.second.next <= now; });
  if (now >= next_audit_ || furniture_due) {
    audit(now);
    next_audit_ = now + config_.audit_period;
  }
}

void Plane::sweep(TimePoint now) {
  const Result<bool> over = sweep_->slice(bpf::ticks(now));
  if (over && !*over) {
    next_sweep_ = now + kSlicePause;
    return;
  }
  if (over) {
    read_packet_events();
    mind_fullness(now);
  } else {
    log::warn("connections could not be swept", {{"error", over.error().text()}});
  }
  next_sweep_ = now + patience_.pause();
}

/// As the table fills, connections that have ended make room sooner.
void Plane::mind_fullness(TimePoint now) {
  const std::size_t flows = sweep_->stats().flows;
  const std::size_t capacity = tables_->flow_capacity();
  const double before = patience_.share();
  patience_.adapt(flows, capacity, now - std::exchange(last_pass_, now));
  if (patience_.share() == before) {
    return;
  }
  set_timeouts(tables_->config(), config_.timeouts, patience_.share());
  if (before == 1) {
    log::warn("the table of connections fills: those that have ended make room sooner",
              {{"percent", std::to_string(flows * 100 / capacity)},
               {"mend", "a greater --ebpf-max-connections"}});
  }
}

/// A call to the kernel for each, so not with every change.
void Plane::read_packet_events() {
  const std::vector<std::string_view> names = event_names();
  const std::vector<std::uint64_t> counts = tables_->events();
  for (std::size_t i = 0; i < std::min(names.size(), counts.size()); ++i) {
    packet_events_.insert_or_assign(std::string(names[i]), counts[i]);
  }
}

std::optional<TimePoint> Plane::next_due() const {
  if (!synced_) {
    return std::nullopt;
  }
  TimePoint next = std::min(next_sweep_, next_audit_);
  if (!leaving_.empty()) {
    next = std::min(next, next_leaving_);
  }
  if (!left_.empty()) {
    next = std::min(next, next_sockets_);
  }
  for (const auto& [key, retry] : retries_) {
    next = std::min(next, retry.next);
  }
  for (const auto& [part, retry] : furniture_) {
    next = std::min(next, retry.next);
  }
  return next;
}

Summary Plane::summary() const {
  Summary summary;
  summary.synced = synced_;
  summary.virtual_servers = totals_.servers;
  summary.real_servers = totals_.reals + totals_.leaving;
  summary.draining = totals_.leaving;
  summary.operations = operations_;
  summary.operation_errors = operation_errors_;
  summary.drift_repaired = drift_;
  if (sweep_ != nullptr && sweep_->stats().drift != 0) {
    summary.drift_repaired["connection counter"] = sweep_->stats().drift;
  }
  summary.events = packet_events_;
  for (const auto& [key, retry] : retries_) {
    summary.failures.push_back({key.text(), retry.error, retry.attempts});
  }
  for (const auto& [key, problem] : problems_) {
    summary.failures.push_back({key.text(), problem, 1});
  }
  for (const auto& [part, retry] : furniture_) {
    summary.failures.push_back({part, retry.error, retry.attempts});
  }
  for (const auto& [device, error] : device_failures_) {
    summary.failures.push_back({"device " + device, error, 1});
  }
  return summary;
}

}  // namespace fairlead::dataplane::ebpf
