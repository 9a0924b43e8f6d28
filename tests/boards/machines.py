"""Machines as the kernel shows them: the files of a root, for boards that nobody here has."""

from __future__ import annotations

from pathlib import Path

MEMINFO_8G = "MemTotal:        8255520 kB\n"


def write(root: Path, files: dict[str, str]) -> Path:
    for relative, text in files.items():
        path = root / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def raspberry_pi_5(root: Path, *, throttled: str = "0", temperature: str = "51250", hailo: bool = False) -> Path:
    """A Pi 5 on an SD card, with a USB camera."""
    write(
        root,
        {
            "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
            "proc/device-tree/compatible": "raspberrypi,5-model-b\0brcm,bcm2712\0",
            "proc/meminfo": MEMINFO_8G,
            "proc/sys/kernel/osrelease": "6.12.47+rpt-rpi-2712\n",
            "proc/self/mountinfo": "22 1 179:2 / / rw,noatime shared:1 - ext4 /dev/mmcblk0p2 rw\n",
            "sys/class/thermal/thermal_zone0/temp": f"{temperature}\n",
            "sys/class/thermal/cooling_device0/type": "pwm-fan\n",
            "sys/class/thermal/cooling_device0/cur_state": "2\n",
            "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled": f"{throttled}\n",
            "sys/devices/mmc/block/mmcblk0/size": "62333952\n",
            "sys/devices/mmc/block/mmcblk0/device/type": "SD\n",
            "sys/devices/mmc/block/mmcblk0/device/name": "SD32G\n",
            "sys/devices/mmc/block/mmcblk0/mmcblk0p2/partition": "2\n",
            "sys/fs/ext4/mmcblk0p2/errors_count": "0\n",
            "sys/class/video4linux/video0/name": "UVC Camera\n",
            "sys/class/video4linux/video0/index": "0\n",
            "sys/class/video4linux/video1/name": "UVC Camera\n",
            "sys/class/video4linux/video1/index": "1\n",
            "sys/class/video4linux/video19/name": "rpi-hevc-dec\n",
            "sys/class/video4linux/video19/index": "0\n",
        },
    )
    numbers = root / "sys/dev/block"
    numbers.mkdir(parents=True)
    (numbers / "179:2").symlink_to("../../devices/mmc/block/mmcblk0/mmcblk0p2")
    if hailo:
        card = "sys/bus/pci/devices/0001:01:00.0"
        write(root, {f"{card}/vendor": "0x1e60\n", f"{card}/device": "0x2864\n", f"{card}/class": "0x120000\n"})
    return root


def jetson_orin_nano(root: Path) -> Path:
    """A Jetson on NVMe."""
    write(
        root,
        {
            "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
            "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0nvidia,tegra234\0",
            "proc/meminfo": "MemTotal:        7802536 kB\n",
            "proc/self/mountinfo": "27 1 259:1 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p1 rw\n",
            "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n",
            "sys/class/thermal/thermal_zone0/temp": "48562\n",
            "sys/class/thermal/thermal_zone1/temp": "-256000\n",
            "sys/class/thermal/thermal_zone2/temp": "not a number\n",
            "sys/devices/pci/nvme/nvme0n1/size": "976773168\n",
            "sys/devices/pci/nvme/nvme0n1/device/model": "Samsung SSD 980\n",
            "sys/devices/pci/nvme/nvme0n1/nvme0n1p1/partition": "1\n",
        },
    )
    (root / "sys/dev/block").mkdir(parents=True)
    (root / "sys/dev/block/259:1").symlink_to("../../devices/pci/nvme/nvme0n1/nvme0n1p1")
    return root


def emmc(root: Path, *, life: str, reserve: str, errors: str = "0") -> Path:
    """An RK3588 board on eMMC."""
    write(
        root,
        {
            "proc/device-tree/model": "Radxa ROCK 5B\0",
            "proc/device-tree/compatible": "radxa,rock-5b\0rockchip,rk3588\0",
            "proc/self/mountinfo": "27 1 179:1 / / ro,relatime - ext4 /dev/mmcblk1p1 ro\n",
            "sys/devices/emmc/mmcblk1/size": "122142720\n",
            "sys/devices/emmc/mmcblk1/device/type": "MMC\n",
            "sys/devices/emmc/mmcblk1/device/life_time": f"{life}\n",
            "sys/devices/emmc/mmcblk1/device/pre_eol_info": f"{reserve}\n",
            "sys/devices/emmc/mmcblk1/mmcblk1p1/partition": "1\n",
            "sys/fs/ext4/mmcblk1p1/errors_count": f"{errors}\n",
        },
    )
    (root / "sys/dev/block").mkdir(parents=True)
    (root / "sys/dev/block/179:1").symlink_to("../../devices/emmc/mmcblk1/mmcblk1p1")
    return root
