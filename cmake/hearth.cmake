# SPDX-License-Identifier: Apache-2.0
#
# What the CMakeLists.txt of the folders share: compiler settings, dependencies, and the two functions that make a floor
# and a unit test.

# The interface library hearth_flags carries every compiler and linker setting; each target of ours links it privately.
function(hearth_compiler_settings)
    add_library(hearth_flags INTERFACE)
    target_compile_features(hearth_flags INTERFACE c_std_17)
    target_compile_definitions(hearth_flags INTERFACE _GNU_SOURCE HEARTHFS_VERSION="${PROJECT_VERSION}")
    target_compile_options(hearth_flags INTERFACE -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes
                           -fno-omit-frame-pointer)
    if(CMAKE_C_COMPILER_ID STREQUAL GNU)
        # Messages of bounded length are cut on purpose, and what gcc finds here changes with -O and sanitizers.
        target_compile_options(hearth_flags INTERFACE -Wno-format-truncation)
    endif()
    if(HEARTH_FAULTS)
        target_compile_definitions(hearth_flags INTERFACE HEARTH_FAULTS)
    endif()
    if(HEARTH_WERROR)
        target_compile_options(hearth_flags INTERFACE -Werror)
    endif()
    if(HEARTH_SANITIZE)
        target_compile_options(hearth_flags INTERFACE -fsanitize=${HEARTH_SANITIZE} -fno-sanitize-recover=all)
        target_link_options(hearth_flags INTERFACE -fsanitize=${HEARTH_SANITIZE})
        if(CMAKE_C_COMPILER_ID STREQUAL GNU)
            target_compile_options(hearth_flags INTERFACE -Wno-maybe-uninitialized) # false alarms in instrumented code
        endif()
        if(HEARTH_SANITIZE MATCHES thread AND CMAKE_C_COMPILER_ID STREQUAL GNU)
            # TSan does not model atomic_thread_fence(), and gcc says so at each one. Races that only a fence orders
            # need an acquire or release on the word itself.
            target_compile_options(hearth_flags INTERFACE -Wno-tsan)
        endif()
    else()
        target_compile_options(hearth_flags INTERFACE -fstack-protector-strong)
        target_compile_definitions(hearth_flags INTERFACE $<$<NOT:$<CONFIG:Debug>>:_FORTIFY_SOURCE=2>)
        target_link_options(hearth_flags INTERFACE -Wl,-z,relro,-z,now)
    endif()
    target_link_options(hearth_flags INTERFACE -Wl,--as-needed)

    set(CMAKE_C_EXTENSIONS OFF PARENT_SCOPE)
    set(CMAKE_C_STANDARD 17 PARENT_SCOPE)
    set(CMAKE_C_STANDARD_REQUIRED ON PARENT_SCOPE)
    set(CMAKE_POSITION_INDEPENDENT_CODE ON PARENT_SCOPE)
    set(CMAKE_EXPORT_COMPILE_COMMANDS ON PARENT_SCOPE)
    set(CMAKE_BUILD_RPATH "${HEARTHFS_PREFIX}/lib" PARENT_SCOPE)
    set(CMAKE_INSTALL_RPATH "${HEARTHFS_PREFIX}/lib" PARENT_SCOPE)
    include(CheckPIESupported)
    check_pie_supported(LANGUAGES C)
endfunction()

# libfuse is the private prefix's when it is there (it has FUSE-over-io_uring), otherwise the distribution's (3.14 or
# later). pkg_check_modules() remembers its answer for good: forget it when the place has changed.
macro(hearth_find_dependencies)
    find_package(PkgConfig REQUIRED)
    find_package(Threads REQUIRED)
    set(hearth_fuse_place distribution)
    if(EXISTS "${HEARTHFS_PREFIX}/lib/pkgconfig/fuse3.pc")
        file(SHA256 "${HEARTHFS_PREFIX}/lib/pkgconfig/fuse3.pc" hearth_fuse_place)
        set(ENV{PKG_CONFIG_PATH} "${HEARTHFS_PREFIX}/lib/pkgconfig:$ENV{PKG_CONFIG_PATH}")
    endif()
    if(NOT hearth_fuse_place STREQUAL HEARTH_FUSE_PLACE)
        get_cmake_property(hearth_cached CACHE_VARIABLES)
        foreach(variable IN LISTS hearth_cached)
            if(variable MATCHES "FUSE3")
                unset(${variable} CACHE)
            endif()
        endforeach()
        set(HEARTH_FUSE_PLACE "${hearth_fuse_place}" CACHE INTERNAL "")
    endif()
    pkg_check_modules(FUSE3 REQUIRED IMPORTED_TARGET fuse3>=3.14)
    pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)
    pkg_check_modules(URCU REQUIRED IMPORTED_TARGET liburcu-bp liburcu-cds)
    pkg_check_modules(JSONC REQUIRED IMPORTED_TARGET json-c)
    message(STATUS "libfuse ${FUSE3_VERSION} from ${FUSE3_PREFIX}")
endmacro()

# hearth_floor(NAME LINK lib...): the library of this folder, made of all its *.c, with this folder as its only include
# directory. A folder without sources is an interface library, so that the floors above can be configured.
function(hearth_floor name)
    cmake_parse_arguments(floor "" "" "LINK" ${ARGN})
    file(GLOB sources CONFIGURE_DEPENDS *.c)
    if(sources)
        add_library(${name} STATIC ${sources})
        target_include_directories(${name} PUBLIC ${CMAKE_CURRENT_SOURCE_DIR})
        target_link_libraries(${name} PUBLIC ${floor_LINK} PRIVATE hearth_flags)
    else()
        add_library(${name} INTERFACE)
        target_include_directories(${name} INTERFACE ${CMAKE_CURRENT_SOURCE_DIR})
        target_link_libraries(${name} INTERFACE ${floor_LINK})
    endif()
endfunction()

# hearth_unit_tests(PREFIX LIB): one executable for each test_PREFIX_*.c (and test_PREFIX.c), linked with LIB and with
# the folder's support_PREFIX*.c.
function(hearth_unit_tests prefix lib)
    file(GLOB tests CONFIGURE_DEPENDS test_${prefix}_*.c test_${prefix}.c)
    file(GLOB support CONFIGURE_DEPENDS support_${prefix}*.c)
    foreach(test IN LISTS tests)
        get_filename_component(name ${test} NAME_WE)
        add_executable(${name} ${test} ${support})
        target_include_directories(${name} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
        target_link_libraries(${name} PRIVATE ${lib} PkgConfig::CRITERION Threads::Threads hearth_flags)
        if(HEARTH_SANITIZE MATCHES thread)
            target_sources(${name} PRIVATE plain_runner.c)
        endif()
    endforeach()
endfunction()
