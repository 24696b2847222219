#include "apps/ended.h"

#include <new>

namespace longhaul {

Ended ended_by_exception() {
  try {
    throw;
  } catch (const UserError& e) {
    return {e.code, e.what()};
  } catch (const OutOfMemory& e) {
    return {Exit::out_of_memory, e.what()};
  } catch (const std::bad_alloc&) {
    return {Exit::out_of_memory, "out of host memory"};
  } catch (const DeviceError& e) {
    return {Exit::device, e.what()};
  } catch (const std::exception& e) {
    return {Exit::internal, fmt::format("internal error: {}", e.what())};
  }
}

}  // namespace longhaul
