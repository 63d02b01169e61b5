"""Write every dashboard."""

from dashboards.generator.page_files import write_all

write_all()
