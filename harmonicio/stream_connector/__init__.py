"""The library inside the source application.

    from harmonicio.stream_connector import StreamConnector

    with StreamConnector(stream="images") as connector:
        delivery = connector.send(payload, metadata={"well": "B03"})

Importing it starts nothing and needs nothing but the standard library and msgpack.
"""

from harmonicio.stream_connector.allocation import Allocation
from harmonicio.stream_connector.connector import StreamConnector
from harmonicio.stream_connector.delivery import Delivery, DeliveryState
from harmonicio.stream_connector.figures import Figures

__all__ = ["Allocation", "Delivery", "DeliveryState", "Figures", "StreamConnector"]
