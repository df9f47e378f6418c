// SPDX-License-Identifier: Apache-2.0
// Random lives of virtual servers: what the programs pick from our blocks against kernel IPVS's own
// algorithms, written down directly from ipvs-engine.md section 2: a list and its state, no blocks.
#include <algorithm>
#include <gtest/gtest.h>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "dataplane/ebpf/pick_model.h"

namespace fairlead::dataplane::ebpf {
namespace {

class Kernel {
 public:
  explicit Kernel(bpf::fl_scheduler scheduler, bool fallback)
      : scheduler_(scheduler), fallback_(fallback) {}

  void add(const Member& member) {
    list_.insert(list_.begin(), member);
    place_ += place_ >= 0 ? 1 : 0;
    changed();
  }
  void erase(std::size_t index) {
    list_.erase(list_.begin() + static_cast<std::ptrdiff_t>(index));
    place_ -= place_ >= static_cast<int>(index) ? 1 : 0;  // at it: to the one before
    changed();
  }
  void edit(std::size_t index, std::uint32_t weight) {
    list_[index].weight = weight;
    list_[index].last_weight = weight > 0 ? weight : list_[index].last_weight;
    changed();
  }
  [[nodiscard]] const std::vector<Member>& list() const { return list_; }

  std::uint32_t pick(const Client& client, std::map<std::uint32_t, Load>& loads) {
    const auto usable = [&](const Member& m) {
      return m.weight > 0 && !loads[m.number].overloaded;
    };
    const int size = static_cast<int>(list_.size());
    const auto at = [&](int i) -> const Member& { return list_[static_cast<std::size_t>(i)]; };
    const Member* best = nullptr;
    const auto better = [&](const Member& m, auto cost, bool weighted) {
      const std::uint64_t w = weighted ? m.weight : 1;
      const std::uint64_t best_w = best == nullptr ? 1 : weighted ? best->weight : 1;
      if (best == nullptr || cost(*best) * w > cost(m) * best_w) {
        best = &m;
      }
    };
    const auto overhead = [&](const Member& m) {
      return std::uint64_t{loads[m.number].active} * 256 + loads[m.number].inactive;
    };
    const auto queue = [&](const Member& m) { return std::uint64_t{loads[m.number].active} + 1; };
    switch (scheduler_) {
      case bpf::FL_RR:
        for (int step = 1; step <= size + (place_ < 0 ? 0 : 1); ++step) {
          const int index = place_ < 0 ? step - 1 : (place_ + step) % size;
          if (index < size && usable(at(index))) {
            place_ = index;
            return at(index).number;
          }
        }
        return 0;
      case bpf::FL_WRR: {
        const std::uint32_t step = gcd();
        const std::uint32_t highest = most() == 0 ? 0 : most() - (step - 1);
        for (int tried = 0; highest > 0 && tried < 100'000; ++tried) {
          if (++place_ == size) {
            place_ = 0;
            level_ = level_ > step ? level_ - step : highest;
          }
          if (at(place_).weight >= level_ && usable(at(place_))) {
            return at(place_).number;
          }
        }
        return 0;
      }
      case bpf::FL_LC:
      case bpf::FL_WLC:
      case bpf::FL_SED:
        for (const Member& m : list_) {
          if (usable(m)) {
            scheduler_ == bpf::FL_SED ? better(m, queue, true)
                                      : better(m, overhead, scheduler_ == bpf::FL_WLC);
          }
        }
        return best == nullptr ? 0 : best->number;
      case bpf::FL_NQ:
        for (const Member& m : list_) {
          if (usable(m) && loads[m.number].active == 0) {
            return m.number;
          }
        }
        for (const Member& m : list_) {
          if (usable(m)) {
            better(m, queue, true);
          }
        }
        return best == nullptr ? 0 : best->number;
      case bpf::FL_FO:
      case bpf::FL_OVF:
        for (const Member& m : list_) {
          if (usable(m) && (scheduler_ == bpf::FL_FO || loads[m.number].active <= m.weight) &&
              (best == nullptr || m.weight > best->weight)) {
            best = &m;
          }
        }
        return best == nullptr ? 0 : best->number;
      case bpf::FL_SH:
      case bpf::FL_DH:
      case bpf::FL_MH:
        return hashed(client, usable);
    }
    return 0;
  }

 private:
  [[nodiscard]] std::uint32_t gcd() const {
    std::uint32_t out = 0;
    for (const Member& m : list_) {
      out = std::gcd(out, m.weight);
    }
    return out == 0 ? 1 : out;
  }
  [[nodiscard]] std::uint32_t most() const {
    std::uint32_t out = 0;
    for (const Member& m : list_) {
      out = std::max(out, m.weight);
    }
    return out;
  }
  void changed() {
    if (scheduler_ != bpf::FL_WRR) {
      return;
    }
    place_ = -1;
    const std::uint32_t step = gcd();
    const std::uint32_t highest = most() == 0 ? 0 : most() - (step - 1);
    if (level_ > highest || level_ == 0) {
      level_ = highest;
    } else if (step > 1) {
      level_ = level_ / step * step + 1;
    }
  }
  // Who owns a bucket, found anew for each question.
  [[nodiscard]] const Member* owner(std::uint32_t bucket) const {
    if (scheduler_ != bpf::FL_MH) {
      std::vector<const Member*> round;
      for (const Member& m : list_) {
        const std::uint32_t turns = scheduler_ == bpf::FL_DH || m.weight == 0 ? 1 : m.weight;
        round.insert(round.end(), turns, &m);
      }
      return round.empty() ? nullptr : round[bucket % round.size()];
    }
    std::uint32_t divisor = 0;
    std::uint32_t most_last = 0;
    for (const Member& m : list_) {
      divisor = std::gcd(divisor, m.last_weight);
      most_last = std::max(most_last, m.last_weight);
    }
    if (most_last == 0) {
      return nullptr;
    }
    std::uint32_t shift = 0;
    while (((most_last / divisor) >> shift) >= 64) {
      ++shift;
    }
    std::vector<const Member*> table(FL_MH_SIZE);
    std::vector<std::uint64_t> probes(list_.size());
    for (std::size_t filled = 0;;) {
      for (std::size_t i = 0; i < list_.size(); ++i) {
        const std::uint32_t word =
            fold(list_[i].socket.address) + net::number(list_[i].socket.port);
        const std::uint64_t start = maglev_hash(word, false) % FL_MH_SIZE;
        const std::uint64_t skip = maglev_hash(word, true) % (FL_MH_SIZE - 1) + 1;
        const std::uint32_t share = (list_[i].last_weight / divisor) >> shift;
        const std::uint32_t turns = share == 0 && list_[i].last_weight != 0 ? 1 : share;
        for (std::uint32_t turn = 0; turn < turns; ++turn) {
          std::uint64_t seat = 0;
          do {
            seat = (start + probes[i]++ * skip) % FL_MH_SIZE;
          } while (table[seat] != nullptr);
          table[seat] = &list_[i];
          if (++filled == FL_MH_SIZE) {
            return table[bucket];
          }
        }
      }
    }
  }
  template <typename Usable>
  std::uint32_t hashed(const Client& client, const Usable& usable) {
    const auto key = [&](std::uint32_t offset) -> std::uint32_t {
      if (scheduler_ == bpf::FL_DH) {
        return hash32(client.target);
      }
      return scheduler_ == bpf::FL_SH
                 ? (offset + hash32(client.port + client.address)) & 255U
                 : maglev_hash(offset + client.port + client.address, false) % FL_MH_SIZE;
    };
    const std::uint32_t size = scheduler_ == bpf::FL_MH ? FL_MH_SIZE : 256;
    const std::uint32_t first = key(0);
    const Member* found = owner(first);
    if (found != nullptr && usable(*found)) {
      return found->number;
    }
    // A fallback asks about many buckets; with none usable there is nothing to find.
    const bool any =
        std::ranges::any_of(list_, [&](const Member& m) { return usable(m) && owner_of_some(m); });
    for (std::uint32_t offset = 0; fallback_ && any && scheduler_ != bpf::FL_DH && offset < size;
         ++offset) {
      found = owner(key((offset + first) % size));
      if (found != nullptr && usable(*found)) {
        return found->number;
      }
    }
    return 0;
  }
  [[nodiscard]] bool owner_of_some(const Member& m) const {
    return scheduler_ != bpf::FL_MH || m.last_weight > 0;
  }

  bpf::fl_scheduler scheduler_;
  bool fallback_;
  std::vector<Member> list_;
  int place_ = -1;  // -1: the list's head
  std::uint32_t level_ = 0;
};

struct LifeCase {
  bpf::fl_scheduler scheduler;
  bool fallback = false;
  unsigned lives = 400, steps = 60;
};
class Life : public testing::TestWithParam<LifeCase> {};

TEST_P(Life, PicksAreTheKernels) {
  const LifeCase& param = GetParam();
  const bool is_hash = param.scheduler >= bpf::FL_SH;
  for (unsigned seed = 1; seed <= param.lives; ++seed) {
    std::mt19937 random(seed);
    const auto below = [&](std::uint32_t limit) {
      return std::uniform_int_distribution<std::uint32_t>(0, limit - 1)(random);
    };
    Kernel kernel(param.scheduler, param.fallback);
    PickModel programs{param.scheduler, param.fallback, {}};
    Block block;
    std::uint32_t cursor = 0;
    std::uint32_t next_number = 1;
    std::string story;
    // One change at a time, as the kernel is told.
    const auto publish = [&](const std::vector<Member>& before) {
      const Former former{before, block, cursor};
      block = build_block(param.scheduler, kernel.list(), before.empty() ? nullptr : &former);
      cursor = block.cursor;
    };
    for (unsigned step = 0; step < param.steps; ++step) {
      const std::vector<Member> before = kernel.list();
      const std::uint32_t what = below(10);
      const std::uint32_t weight = below(4) == 0 ? 0 : below(6) + 1;
      if (what == 0 || before.empty()) {
        const std::uint32_t number = next_number++;
        const auto address = net::IpAddress::parse("192.0.2." + std::to_string(number));
        kernel.add({number, {*address, net::Port{80}}, weight, weight});
        story += " add" + std::to_string(number) + "*" + std::to_string(weight);
        publish(before);
      } else if (what == 1 && before.size() > 1) {
        const std::size_t index = below(static_cast<std::uint32_t>(before.size()));
        story += " del" + std::to_string(before[index].number);
        kernel.erase(index);
        publish(before);
      } else if (what == 2) {
        const std::size_t index = below(static_cast<std::uint32_t>(before.size()));
        if (before[index].weight == weight) {
          continue;  // no change: the kernel is not told
        }
        story += " set" + std::to_string(before[index].number) + "*" + std::to_string(weight);
        kernel.edit(index, weight);
        publish(before);
      } else {
        if (is_hash || param.scheduler >= bpf::FL_LC) {
          Load& load =
              programs.loads[before[below(static_cast<std::uint32_t>(before.size()))].number];
          load = {below(6), below(300), below(8) == 0};
        }
        const Client client{static_cast<std::uint32_t>(random()), below(2) * below(65'536),
                            static_cast<std::uint32_t>(random())};
        const std::uint32_t got = programs.pick(block, cursor, client);
        const std::uint32_t want = kernel.pick(client, programs.loads);
        story += " pick" + std::to_string(want);
        ASSERT_EQ(got, want) << text(param.scheduler) << " seed " << seed << ":" << story;
        if (want != 0 && !is_hash) {
          ++programs.loads[want].active;
        }
      }
    }
  }
}
INSTANTIATE_TEST_SUITE_P(
    All, Life,
    testing::Values(LifeCase{bpf::FL_RR, false, 4000}, LifeCase{bpf::FL_WRR, false, 4000},
                    LifeCase{bpf::FL_LC}, LifeCase{bpf::FL_WLC}, LifeCase{bpf::FL_SED},
                    LifeCase{bpf::FL_NQ}, LifeCase{bpf::FL_FO}, LifeCase{bpf::FL_OVF},
                    LifeCase{bpf::FL_SH}, LifeCase{bpf::FL_SH, true}, LifeCase{bpf::FL_DH},
                    LifeCase{bpf::FL_MH, false, 5, 40}, LifeCase{bpf::FL_MH, true, 3, 30}),
    [](const testing::TestParamInfo<LifeCase>& life) {
      return std::string(text(life.param.scheduler)) + (life.param.fallback ? "_fallback" : "");
    });

}  // namespace
}  // namespace fairlead::dataplane::ebpf
