"""A real RTSP server: GStreamer's, which Debian's /usr/bin/python3 starts in a process of its own.

    /usr/bin/python3 rtsp_server.py PORT FILE [USER PASSWORD]

Serves the H.264 video of a Matroska file in real time at rtsp://127.0.0.1:PORT/live. Each client
gets it from the first frame on. Needs gir1.2-gst-rtsp-server-1.0, python3-gi and the base, good and
bad plugins. Imports nothing of this project.
"""

import sys


def main(port, path, user="", password=""):
    import gi

    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import GLib, Gst, GstRtspServer

    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(
        f'( filesrc location="{path}" ! matroskademux ! h264parse ! '
        "rtph264pay name=pay0 pt=96 config-interval=-1 )"
    )
    if user:
        access = GstRtspServer.RTSPAuth()
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", "viewer")
        basic = GstRtspServer.RTSPAuth.make_basic(user, password)
        access.add_basic(basic, token)
        server.set_auth(access)
        permissions = GstRtspServer.RTSPPermissions()
        permissions.add_permission_for_role("viewer", "media.factory.access", True)
        permissions.add_permission_for_role("viewer", "media.factory.construct", True)
        factory.set_permissions(permissions)
    server.get_mount_points().add_factory("/live", factory)
    server.attach(None)
    print("serving", flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main(*sys.argv[1:])
