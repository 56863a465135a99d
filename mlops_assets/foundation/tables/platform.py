"""Tables of the platform itself: leases."""

from datetime import datetime

from sqlalchemy import BigInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from mlops_assets.foundation.tables.base import Base


class Lease(Base):
    """Who holds a resource until when; `token` grows with every new holder, so that a late one can be told apart."""

    __tablename__ = "lease"

    resource: Mapped[str] = mapped_column(String(255), primary_key=True)
    holder: Mapped[str]
    token: Mapped[int] = mapped_column(BigInteger)
    acquired_at: Mapped[datetime]
    expires_at: Mapped[datetime]
