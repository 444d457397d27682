// The interrupts of an open device: which kind is active, and the eventfds that they signal. The rules and
// the order of checks are those of the kernel's VFIO_DEVICE_SET_IRQS.
//
// Life: made and destroyed with the session (session.h) that owns it. The destructor disables everything.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <vector>

#include "../../uapi/vfio.h"
#include "../pci/function.h"
#include "eventfd.h"

namespace vfio::soft::cdev {

class ConfigView;

class Interrupts final : public pci::InterruptHandler {
 public:
  Interrupts(Services& host, pci::Function& function);
  ~Interrupts();
  Interrupts(const Interrupts&) = delete;
  Interrupts& operator=(const Interrupts&) = delete;

  // The number of vectors of an index; 0: the function has no interrupt of this kind.
  [[nodiscard]] unsigned count(uint32_t index, uint8_t pin) const;
  // Carries out a request whose header was checked. `data` has the whole array. Returns 0, -errno, or a
  // positive number: that of the vectors that were available.
  [[nodiscard]] int set(const uapi::vfio_irq_set& request, std::span<const uint8_t> data);
  void disable();

  // Sets the virtual INTx disable bit.
  void setDisabled(bool disabled);
  [[nodiscard]] bool messagesActive() const { return active_ == uapi::VFIO_PCI_MSI_IRQ_INDEX; }
  [[nodiscard]] unsigned grantedLog2() const { return grantedLog2_; }
  void requestRelease();  // signals the REQ interrupt
  void releaseSingles();  // drops the eventfds of ERR and REQ, at the close

  void message(unsigned vector) override;
  void line() override;

 private:
  using Trigger = std::shared_ptr<EventFd>;
  [[nodiscard]] bool idle() const { return active_ >= uapi::VFIO_PCI_ERR_IRQ_INDEX; }
  [[nodiscard]] bool lineActive() const { return active_ == uapi::VFIO_PCI_INTX_IRQ_INDEX; }
  [[nodiscard]] int setLineMask(const uapi::vfio_irq_set& request, std::span<const uint8_t> data, bool mask);
  [[nodiscard]] int setLineTrigger(const uapi::vfio_irq_set& request, std::span<const uint8_t> data);
  [[nodiscard]] int setMessages(const uapi::vfio_irq_set& request, std::span<const uint8_t> data);
  [[nodiscard]] int setSingle(Trigger& trigger, const uapi::vfio_irq_set& request,
                              std::span<const uint8_t> data);
  // What a descriptor in a request refers to: an eventfd, nothing (-1), or the error of looking it up.
  struct Source {
    Trigger trigger;
    int failed = 0;
  };
  [[nodiscard]] static int sourcesOf(std::span<const uint8_t> data, unsigned count,
                                     std::vector<Source>& sources);
  [[nodiscard]] int setBlock(unsigned start, std::vector<Source> sources);
  [[nodiscard]] int setVector(unsigned vector, Source source);
  void enableMessages(uint32_t index, unsigned vectors);
  void disableMessages();
  void disableLine();
  void mask();
  void unmask();
  void sendLine();
  void writeCommandBit(bool disabled);

  Services& host_;
  pci::Function& function_;
  uint32_t active_ = uapi::VFIO_PCI_NUM_IRQS;
  std::map<unsigned, Trigger> vectors_;  // the triggers of messages
  // MSI can't be masked at the device. A message that arrives before a vector's first trigger is set waits
  // for that trigger. Later, a message that arrives while the vector has no trigger is lost.
  std::set<unsigned> triggered_;  // vectors that have had a trigger since messages were enabled
  std::set<unsigned> early_;      // vectors for which a message waits
  unsigned granted_ = 0;
  unsigned grantedLog2_ = 0;
  Trigger line_;
  Trigger unmaskFd_;
  uint64_t unmaskWatch_ = 0;
  bool masked_ = false;
  bool disabled_ = false;
  Trigger error_;
  Trigger request_;
};

}  // namespace vfio::soft::cdev
