"""Shippers: processes that take the output of one container from its monitor and pass it on to a log target.

A target may be slow, hang or resolve names for seconds, and its client needs TLS and more: none of that has a place in
a monitor. A shipper is forked by the zygote before the container is created, lives as long as the container, and needs
no daemon. One piece of output after the other is sent before the next is read, so a slow target is felt by the monitor
as a full socket; :class:`barque.supervise.log_sink.Shipped` says what comes of that.
"""
